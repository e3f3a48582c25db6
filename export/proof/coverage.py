"""Which operators of a file the targets run that a report names: the backends of phones, and microcontrollers."""

from mobilenets_tf.export.delegates import backends
from mobilenets_tf.export.delegates.rules import Backend, Rule, RuleSource, Verdict
from mobilenets_tf.export.micro.operators import COMMIT, MOST_AXES, RESOLVER
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import Call, calls

_SOURCE = RuleSource(
    "python/tflite_micro/python_ops_resolver.cc", "PythonOpsResolver", "tensorflow/tflite-micro", COMMIT
)


def _axes(call: Call) -> str | None:
    axes, most = len(call.inputs[0].shape), MOST_AXES.get(call.name)
    return f"it has {axes} axes; up to {most} are taken" if most is not None and axes > most else None


_MICRO = Backend(
    "micro",
    "TensorFlow Lite Micro",
    "microcontrollers; by operator alone; deploy --target micro runs the file",
    dict.fromkeys(RESOLVER, Rule(_SOURCE, (_axes,))),
    missing=_SOURCE,
    unpacks=frozenset(),
    whole=_SOURCE,
)


def verdicts(content: bytes) -> tuple[Verdict, ...]:
    """Judge a file with each backend of a phone or a browser, and an int8 file with TensorFlow Lite Micro too."""
    tree = flatbuffer.read(content)
    operators = calls(tree)
    in_8_bits = any(call.outputs[0].type == "int8" for call in operators if call.outputs)
    return (*backends.verdicts(tree), *([_MICRO.verdict([operators])] if in_8_bits else []))
