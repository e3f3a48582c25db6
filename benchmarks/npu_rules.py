"""Compile files of single operators for a Qualcomm NPU, and compare with ``export/delegates/npu.py``.

    pip install --no-deps onnxruntime-qnn
    python benchmarks/npu_rules.py --check
    python benchmarks/npu_rules.py --files deployed/*.tflite

The files are those that the rules for XNNPACK are tested with: about 400, half a second each. With --files, also files
of one's own: for each operator kind, how many the NPU takes and how many the rules say.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.delegates.backends import verdicts
from mobilenets_tf.export.npu.compiler import compile_for
from mobilenets_tf.tflite import flatbuffer
from tests.export.delegates.test_backends import cases


def compiled(content: bytes, chip: str) -> Counter:
    """Operator -> how many stay on the CPU."""
    graph = flatbuffer.Graph(flatbuffer.read(content))
    try:
        (file,), _ = compile_for(content, [chip])
    except RequestError:  # a file of which the NPU takes nothing is not compiled
        return Counter(graph.name(operator) for operator in graph.operators)
    return Counter(operator for operator, _ in file.outside)


def predicted(content: bytes) -> Counter:
    """Operator -> how many stay on the CPU, by the rules."""
    (verdict,) = (each for each in verdicts(flatbuffer.read(content)) if each.path == "npu_qualcomm")
    return Counter(fallback.operator for fallback in verdict.fallbacks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", default="SM8750")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name begins with this text")
    parser.add_argument("--files", nargs="+", type=Path, default=[], help="files of one's own, instead of the cases")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a rule says otherwise")
    arguments = parser.parse_args()
    files = [(path.name, path.read_bytes()) for path in arguments.files]
    files = files or [(what, content) for what, content in cases() if what.startswith(arguments.only)]
    wrong = 0
    for what, content in files:
        left, said = compiled(content, arguments.chip), predicted(content)
        if left != said:
            wrong += 1
            print(
                f"{what:<40} on the CPU: {dict(left) or 'nothing'}; the rules say {dict(said) or 'nothing'}", flush=True
            )
    print(f"{wrong} of {len(files)} are not as the rules say, for {arguments.chip}")
    return 1 if arguments.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
