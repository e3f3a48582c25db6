"""The backends that a phone or a browser can run a file with, and their verdicts on a file.

The rules are data: each backend has a table from operators to their conditions, each with the place in LiteRT's source
that states the condition. The rules say which operators a delegate accepts when it inspects the graph. What a certain
driver or chip then does with an accepted operator cannot be told from the file.
"""

from mobilenets_tf.export.delegates import classic_gpu, gpu, nnapi, npu, web_gpu, xnnpack
from mobilenets_tf.export.delegates.rules import Backend, Rule, RuleSource, Verdict
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import calls

_STATIC = RuleSource("tflite/core/subgraph.cc", "Subgraph::ModifyGraphWithDelegateImpl")
_GPU_TYPES = Rule(RuleSource(gpu.FILE, "GetOpsToReplaceWithOptions"), (gpu.runtime_types,))
_CLASSIC_GPU_TYPES = Rule(RuleSource(classic_gpu.FILE, "GetOpsToReplace"), (classic_gpu.runtime_types,))
BACKENDS = (
    Backend(
        "xnnpack",
        "XNNPACK (CPU)",
        "the default on a phone's CPU",
        xnnpack.RULES,
        missing=RuleSource(xnnpack.FILE, "VisitNode"),
        unpacks=frozenset({"float16", "int8"}),
        calls=True,
    ),
    Backend(
        "gpu",
        "GPU accelerator",
        "LiteRT's ML Drift, which CompiledModel uses; computes int8 in float",
        gpu.RULES,
        missing=RuleSource(gpu.FILE, "NewOperationParser"),
        everywhere=(_GPU_TYPES,),
        single=RuleSource("ml_drift_delegate/delegate/delegate_opencl.cc", "max_delegated_partitions"),
        static=_STATIC,
    ),
    Backend(
        "web_gpu",
        "MediaPipe's GPU delegate in browsers",
        f"WebGL; computes int8 in float; as tried with tasks-vision {web_gpu.SOURCE.commit}",
        web_gpu.RULES,
        missing=web_gpu.SOURCE,
        everywhere=(_CLASSIC_GPU_TYPES, Rule(web_gpu.SOURCE, (web_gpu.limits,))),
        static=_STATIC,
        float_inputs=web_gpu.SOURCE,
        whole=web_gpu.SOURCE,
    ),
    Backend(
        "nnapi",
        "NNAPI delegate",
        "feature level 7, an accelerator asked for by name; deprecated since Android 15",
        nnapi.RULES,
        missing=nnapi.SOURCE,
        static=_STATIC,
    ),
    Backend(
        "npu_qualcomm",
        "Qualcomm's NPU",
        "types and shapes as tried with the compiler for one chip; deploy --npu compiles the file",
        npu.QUALCOMM_RULES,
        missing=npu.QUALCOMM_SOURCE,
    ),
    Backend(
        "npu_mediatek",
        "MediaTek's NPU",
        "by operator alone; types and shapes are for the vendor's compiler",
        dict.fromkeys(npu.MEDIATEK, Rule(npu.MEDIATEK_SOURCE)),
        missing=npu.MEDIATEK_SOURCE,
    ),
)


def verdicts(model: flatbuffer.schema.ModelT) -> tuple[Verdict, ...]:
    """Judge a model, as ``flatbuffer.read`` returns it, with each backend."""
    graphs = [calls(model, number) for number in range(len(model.subgraphs))]
    return tuple(backend.verdict(graphs) for backend in BACKENDS)
