"""Try which files MediaPipe's GPU delegate runs in a browser, and compare with ``export/delegates/web_gpu.py``.

Chromium draws with SwiftShader, so no GPU is needed. Each file is a classifier of the mean of three channels, with one
operator or a few between image and mean. MediaPipe's scores on its GPU delegate are compared with those on its CPU.

    npm install --ignore-scripts --prefix /tmp/web @mediapipe/tasks-vision@1.1.0
    python benchmarks/web_gpu.py /tmp/web/node_modules/@mediapipe/tasks-vision --check
"""

import argparse
import http.server
import json
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import numpy as np

from mobilenets_tf import Preprocessing
from mobilenets_tf.export import metadata
from mobilenets_tf.export.delegates.backends import verdicts
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.image_input import ImageInput

SIDE = 8
IMAGE, NARROW, HALF = (1, SIDE, SIDE, 3), (1, SIDE, SIDE, 1), (1, SIDE, SIDE // 2, 3)
BORDER = np.int32([[0, 0], [1, 1], [1, 1], [0, 0]])
BORDERED = (1, SIDE + 2, SIDE + 2, 3)
TOLERANCE = 0.02  # of a score; the delegate computes in half precision
PAGE = """<html><body><script type="module">
import {ImageClassifier} from "/package/vision_bundle.mjs";
window.score = async (file, delegate) => {
  try {
    const wasm = "/package/wasm/vision_wasm_internal";
    const classifier = await ImageClassifier.createFromOptions(
      {wasmLoaderPath: wasm + ".js", wasmBinaryPath: wasm + ".wasm"},
      {baseOptions: {modelAssetPath: file, delegate}, maxResults: 3});
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    const context = canvas.getContext("2d"), image = context.createImageData(SIDE, SIDE);
    for (let place = 0, state = 7; place < image.data.length; place++) {
      state = (state * 1103515245 + 12345) % 2147483648;
      image.data[place] = place % 4 == 3 ? 255 : (state >> 16) & 255;
    }
    context.putImageData(image, 0, 0);
    const scores = [0, 0, 0];
    for (const each of classifier.classify(canvas).classifications[0].categories) scores[each.index] = each.score;
    classifier.close();
    return {scores};
  } catch (error) { return {error: String(error)}; }
};
window.ready = true;
</script></body></html>""".replace("SIDE", str(SIDE))


class Steps:
    """The operators between the image and the mean."""

    def __init__(self):
        self.tree = schema.ModelT()
        self.tree.version, self.tree.operatorCodes, self.tree.buffers = 3, [], [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.tree.subgraphs = [self.graph]
        self.image = flatbuffer.add_tensor(self.tree, "image", IMAGE)

    def add(self, name, inputs, shape, options=None, kind="FLOAT32", **fields):
        """Append an operator; arrays among the inputs become constants. Returns the output."""
        made = getattr(schema, f"{options}OptionsT")() if options else None
        if made:
            vars(made).update(fields)
        inputs = [
            flatbuffer.add_constant(self.tree, f"constant{len(self.graph.tensors)}", each)
            if isinstance(each, np.ndarray)
            else each
            for each in inputs
        ]
        output = flatbuffer.add_tensor(self.tree, f"{name}{len(self.graph.tensors)}", list(shape))
        self.graph.tensors[output].type = getattr(schema.TensorType, kind)
        self.graph.operators.append(flatbuffer.make_operator(self.tree, name, inputs, [output], made))
        return output

    def content(self, last) -> bytes:
        shape = (1, 3)
        scores = self.add("MEAN", [last, np.int32([1, 2])], shape, "Reducer")
        self.graph.inputs, self.graph.outputs = [self.image], [scores]
        flatbuffer.set_signature(self.tree, ["image"], ["scores"])
        image = ImageInput(Preprocessing(SIDE, SIDE))
        described = metadata.describe("net", image, ["red", "green", "blue"], "classify")
        return metadata.add(flatbuffer.write(self.tree), described)


def values(*shape, value=0.5):
    return np.full(shape, value, np.float32)


def one(name, options=None, *constants, shape=IMAGE, **fields):
    """A file with one operator behind the image."""
    return lambda steps: steps.add(name, [steps.image, *constants], shape, options, **fields)


def with_exponential(name, options, shape=IMAGE, **fields):
    """A file with one operator that reads the image and its exponential."""

    def make(steps):
        other = steps.add("EXP", [steps.image], IMAGE, "Exp")
        return steps.add(name, [steps.image, other], shape, options, **fields)

    return make


def with_narrow(name, options, first):
    """A file with one operator that reads the image and its brightest channel."""

    def make(steps):
        narrow = steps.add("REDUCE_MAX", [steps.image, np.int32([3])], NARROW, "Reducer", keepDims=True)
        return steps.add(name, [narrow, steps.image] if first else [steps.image, narrow], IMAGE, options)

    return make


def widened(steps):
    narrow = steps.add("REDUCE_MAX", [steps.image, np.int32([3])], NARROW, "Reducer", keepDims=True)
    return steps.add("ADD", [narrow, values(1, 1, 1, 3)], IMAGE, "Add")


def of_type(kind):
    """A file whose input, or with "INT8 inside" whose first activation, is an integer."""

    def make(steps):
        name, *inside = kind.split()
        integers = steps.add("QUANTIZE", [steps.image], IMAGE, "Quantize", kind=name) if inside else steps.image
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = np.float32([1 / 128]), np.int64([128 if name == "UINT8" else 0])
        tensor = steps.graph.tensors[integers]
        tensor.type, tensor.quantization = getattr(schema.TensorType, name), quantization
        return steps.add("DEQUANTIZE", [integers], IMAGE, "Dequantize")

    return make


def flat(steps):
    mean = steps.add("MEAN", [steps.image, np.int32([1, 2])], (1, 3), "Reducer")
    return steps.add("ADD", [steps.image, steps.add("RESHAPE", [mean, np.int32([3])], (3,), "Reshape")], IMAGE, "Add")


def compared(steps):
    mask = steps.add("GREATER", [steps.image, values(1, 1, 1, 3)], IMAGE, "Greater", kind="BOOL")
    fields = {"inDataType": schema.TensorType.BOOL, "outDataType": schema.TensorType.FLOAT32}
    return steps.add("CAST", [mask], IMAGE, "Cast", **fields)


def selected(steps):
    mask = steps.add("GREATER", [steps.image, values(1, 1, 1, 3)], IMAGE, "Greater", kind="BOOL")
    return steps.add("SELECT_V2", [mask, steps.image, values(*IMAGE)], IMAGE, "SelectV2")


def squeezed(steps):
    mean = steps.add("MEAN", [steps.image, np.int32([1, 2])], (1, 1, 1, 3), "Reducer", keepDims=True)
    return steps.add("MUL", [steps.image, steps.add("LOGISTIC", [mean], (1, 1, 1, 3))], IMAGE, "Mul")


def products(steps):
    turned = steps.add("TRANSPOSE", [steps.image, np.int32([0, 1, 3, 2])], (1, SIDE, 3, SIDE), "Transpose")
    square = steps.add("BATCH_MATMUL", [steps.image, turned], (1, SIDE, SIDE, SIDE), "BatchMatMul")
    return steps.add("BATCH_MATMUL", [square, steps.image], IMAGE, "BatchMatMul")


def packed(steps):
    rows = steps.add("RESHAPE", [steps.image, np.int32([1, SIDE, SIDE * 3])], (1, SIDE, SIDE * 3), "Reshape")
    both = [rows, values(1, SIDE, SIDE * 3)]
    pair = steps.add("PACK", both, (1, 2, SIDE, SIDE * 3), "Pack", axis=1, valuesCount=2)
    shape = (1, 2 * SIDE, SIDE, 3)
    return steps.add("RESHAPE", [pair, np.int32(shape)], shape, "Reshape")


WINDOW = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
BY_TWO = {"filterWidth": 2, "filterHeight": 2, "strideW": 2, "strideH": 2, "padding": schema.Padding.VALID}
WIDE = (1, SIDE, 2 * SIDE, 3)
PIECE = values(1, SIDE, 1, 3)
CASES = {
    "image alone": lambda steps: steps.image,
    **{name: one(name) for name in ("ELU", "FLOOR", "LOGISTIC", "RELU", "RELU6", "RELU_0_TO_1", "TANH")},
    **{name: one(name, name.title()) for name in ("ABS", "COS", "EXP", "GELU", "NEG", "SIGN", "SQUARE")},
    "HARD_SWISH": one("HARD_SWISH", "HardSwish"),
    "LEAKY_RELU": one("LEAKY_RELU", "LeakyRelu"),
    "PRELU": one("PRELU", None, values(1, 1, 3)),
    **{f"{name}, constant": one(name, name.title(), values(1, 1, 1, 3)) for name in ("ADD", "DIV", "MUL", "SUB")},
    **{f"{name}, computed": with_exponential(name, name.title()) for name in ("ADD", "DIV", "MUL", "SUB")},
    "MAXIMUM": one("MAXIMUM", "MaximumMinimum", values(1, 1, 1, 3)),
    "SQUARED_DIFFERENCE": one("SQUARED_DIFFERENCE", "SquaredDifference", values(1, 1, 1, 3)),
    "squeeze and excite": squeezed,
    "MUL by one channel": with_narrow("MUL", "Mul", first=False),
    "MUL of one channel": with_narrow("MUL", "Mul", first=True),
    "ADD of one channel": widened,
    "ADD of one dimension": flat,
    **{f"{kind} input": of_type(kind) for kind in ("INT8", "UINT8")},
    "int8 inside": of_type("INT8 inside"),
    "GREATER, CAST": compared,
    "GREATER, SELECT_V2": selected,
    "CONV_2D": one("CONV_2D", "Conv2D", values(3, 1, 1, 3), values(3), **WINDOW),
    "DEPTHWISE_CONV_2D": one(
        "DEPTHWISE_CONV_2D", "DepthwiseConv2D", values(1, 3, 3, 3), values(3), **WINDOW, depthMultiplier=1
    ),
    "AVERAGE_POOL_2D": one("AVERAGE_POOL_2D", "Pool2D", shape=(1, SIDE // 2, SIDE // 2, 3), **BY_TWO),
    "MAX_POOL_2D": one("MAX_POOL_2D", "Pool2D", shape=(1, SIDE // 2, SIDE // 2, 3), **BY_TWO),
    "BATCH_MATMUL, constant": one("BATCH_MATMUL", "BatchMatMul", values(3, 3)),
    "BATCH_MATMUL, computed": products,
    "CONCATENATION": with_exponential("CONCATENATION", "Concatenation", WIDE, axis=2),
    "CONCATENATION, constant": one("CONCATENATION", "Concatenation", PIECE, shape=(1, SIDE, SIDE + 1, 3), axis=2),
    "CONCATENATION, twice the same": lambda steps: steps.add(
        "CONCATENATION", [steps.image] * 2, WIDE, "Concatenation", axis=2
    ),
    "PACK, constant": packed,
    "PAD": one("PAD", "Pad", BORDER, shape=BORDERED),
    "PADV2 with 0.5": one("PADV2", "PadV2", BORDER, np.array(0.5, np.float32), shape=BORDERED),
    "PADV2 with 0": one("PADV2", "PadV2", BORDER, np.array(0, np.float32), shape=BORDERED),
    "MIRROR_PAD": one("MIRROR_PAD", "MirrorPad", BORDER, shape=BORDERED),
    "RESIZE_BILINEAR": one("RESIZE_BILINEAR", "ResizeBilinear", np.int32([16, 16]), shape=(1, 16, 16, 3)),
    "SOFTMAX": one("SOFTMAX", "Softmax", beta=1.0),
    "TRANSPOSE": one("TRANSPOSE", "Transpose", np.int32([0, 2, 1, 3])),
    "TILE": one("TILE", "Tile", np.int32([1, 1, 2, 1]), shape=WIDE),
    "GATHER": one("GATHER", "Gather", np.int32([2, 1, 0]), axis=3),
    "CUMSUM": one("CUMSUM", "Cumsum", np.array(2, np.int32)),
}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the page and the files, and the npm package under /package."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def __init__(self, package, *arguments, **options):
        self._package = package
        super().__init__(*arguments, **options)

    def translate_path(self, path):
        inside = path.removeprefix("/package/")
        return str(self._package / inside) if inside != path else super().translate_path(path)

    def log_message(self, *_):
        pass


def tried(package: Path, files: dict[str, bytes]) -> dict[str, dict[str, dict]]:
    """Run each file in Chromium: case -> delegate -> {"scores": [...]} or {"error": text}."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for switch in (
        "headless=new", "no-sandbox", "disable-gpu-sandbox", "use-gl=angle", "use-angle=swiftshader",
        "enable-unsafe-swiftshader", "ignore-gpu-blocklist", "disable-dev-shm-usage",
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page.html").write_text(PAGE, encoding="utf-8")
        for number, content in enumerate(files.values()):
            (Path(folder) / f"{number}.tflite").write_bytes(content)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, package, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver = webdriver.Chrome(options=options)
        try:
            driver.set_script_timeout(60)
            for number, case in enumerate(files):
                found[case] = {}
                for delegate in ("CPU", "GPU"):
                    driver.get(f"http://127.0.0.1:{server.server_port}/page.html")
                    WebDriverWait(driver, 20).until(lambda page: page.execute_script("return window.ready"))
                    script = "window.score(arguments[0], arguments[1]).then(arguments[2])"
                    found[case][delegate] = driver.execute_async_script(script, f"/{number}.tflite", delegate)
        finally:
            driver.quit()
            server.shutdown()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="folder of the npm package @mediapipe/tasks-vision")
    parser.add_argument("files", nargs="*", type=Path, help="further .tflite files: classifiers of three classes")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a rule says otherwise")
    arguments = parser.parse_args()
    files = {}
    for case, make in CASES.items():
        steps = Steps()
        files[case] = steps.content(make(steps))
    files |= {path.name: path.read_bytes() for path in arguments.files}
    version = json.loads((arguments.package / "package.json").read_text(encoding="utf-8"))["version"]
    print(f"@mediapipe/tasks-vision {version}; a score may differ by {TOLERANCE}")
    wrong = 0
    for case, results in tried(arguments.package, files).items():
        verdict = next(each for each in verdicts(flatbuffer.read(files[case])) if each.path == "web_gpu")
        predicted, gpu, cpu = verdict.taken == verdict.total, results["GPU"], results["CPU"]
        if "error" in gpu:
            outcome = f"refused: {gpu['error'].split('failed: ')[-1].splitlines()[0][:60]}"
        else:
            furthest = np.abs(np.subtract(gpu["scores"], cpu["scores"])).max()
            outcome = "right" if furthest <= TOLERANCE else f"wrong by {furthest:.2f}"
        agrees = predicted == (outcome == "right")
        wrong += not agrees
        print(f"{case:<32} {outcome:<60} {'as' if agrees else 'NOT as'} the rules say")
    print(f"{wrong} of {len(files)} are not as the rules say")
    return 1 if arguments.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
