"""What PyTorch's symmetric padding costs in TFLite at a stride-2 layer: PAD against the alternatives.

    python benchmarks/padding.py

TFLite pads "same" (one pixel more at the bottom right) or "valid". PyTorch's padding can be had by

    pad       a PAD op and a "valid" convolution (what the networks here use: XNNPACK folds a zero PAD into it)
    embedded  "same", with the 3x3 kernel in the upper left of a 4x4 one: the same numbers from one op
    crop      stride 1 with "same", then every second row and column: the same numbers, four times the work

Each is a stack of stride-2 depthwise 3x3 layers such as MobileNetV2's, with 1x1 layers between. All three are timed in
one process, call by call in turn; printed are medians in ms, the ratio to "tensorflow" (plain "same", other numbers),
the ops and whether the numbers are PyTorch's.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from mobilenets_tf.conversion.convert import convert, freeze
from mobilenets_tf.quantize import Calibration
from mobilenets_tf.quantize.post_training import prepare
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

WIDTHS = (32, 96, 144, 192)  # of the stride-2 layers, at 112, 56, 28 and 14 pixels, about MobileNetV2's


def stack(form: str):
    """A model of stride-2 depthwise layers in one of the forms, the same weights in each."""
    random = np.random.default_rng(0)
    inputs = x = keras.Input((112, 112, 32), name="x")
    for width in WIDTHS:
        pointwise = layers.Conv2D(width, 1, activation="relu6")
        x = pointwise(x)
        pointwise.set_weights([random.normal(0, 0.2, weight.shape) for weight in pointwise.weights])
        kernel = random.normal(0, 0.3, (3, 3, width, 1))
        if form == "pad":
            x = layers.ZeroPadding2D(1)(x)
        if form == "embedded":
            kernel = np.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
        depthwise = layers.DepthwiseConv2D(
            kernel.shape[0],
            strides=1 if form == "crop" else 2,
            padding="valid" if form == "pad" else "same",
            use_bias=False,
        )
        x = depthwise(x)
        depthwise.set_weights([kernel])
        if form == "crop":
            x = x[:, ::2, ::2]
    return keras.Model(inputs, x)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    # Smooth, so that calibration does not take it for noise.
    wave = np.sin(np.linspace(0, 12, 112, dtype=np.float32))
    sample = (wave[:, None, None] + wave[None, :, None]) * np.linspace(0.2, 1, 32, dtype=np.float32)
    contents = {}
    with Worker() as worker:
        for form in ("tensorflow", "pad", "embedded", "crop"):
            content = convert(freeze(stack(form)), worker)
            contents[form, "float32"] = content
            varied = [sample * scale for scale in np.linspace(0.5, 1, 100)]
            contents[form, "int8"] = prepare(content, "int8", Calibration(varied)).write()
    for scheme in ("float32", "int8"):
        runners = {form: Runner(content, threads=1) for (form, kind), content in contents.items() if kind == scheme}
        times = {form: [] for form in runners}
        for call in range(calls + 10):
            for form, runner in runners.items():
                started = time.perf_counter()
                runner.invoke(sample)
                if call >= 10:
                    times[form].append(1e3 * (time.perf_counter() - started))
        expected = Runner(contents["pad", "float32"])(sample)[0]
        base = np.median(times["tensorflow"])
        for form, runner in runners.items():
            output, median = runner(sample)[0], np.median(times[form])
            error = np.abs(output - expected).max() / np.abs(expected).max()
            numbers = "PyTorch's numbers" if error < (1e-4 if scheme == "float32" else 0.1) else "other numbers"
            operators = flatbuffer.operator_counts(flatbuffer.read(contents[form, scheme]))
            print(f"{scheme:<8} {form:<11} {median:6.2f} ms  {median / base:5.2f}x  {numbers:<17} {operators}")


if __name__ == "__main__":
    main()
