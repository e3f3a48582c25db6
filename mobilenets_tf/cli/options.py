"""Options that several verbs share, and what they share in printing."""

import sys
from argparse import ArgumentTypeError
from contextlib import nullcontext
from dataclasses import fields

from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import Display, printable, silent


def add_model(parser, flag: str | None = None) -> None:
    """The options of a ``ModelSource``; the model itself as the first argument, or as ``flag``, which may lack."""
    text = (
        "a registered name (see: mobilenets-tf list), a .keras or full-model .h5 file, a SavedModel folder, or a float "
        ".tflite file"
    )
    if flag:
        parser.add_argument(flag, dest="model", help=text)
    else:
        parser.add_argument("model", help=text)
    parser.add_argument(
        "--weights",
        help="a tag such as imagenet, or a weight file; random for random weights, which are also what you get, with a "
        "warning, if you leave the option out (for train see --recipe)",
    )  # fmt: skip
    parser.add_argument(
        "--fetch", action="store_true", help="fetch published weights that are not on this machine (see the verb fetch)"
    )
    add_size(parser)
    parser.add_argument("--classes", type=int, help="number of classes (default: the network's; train: of --data)")
    add_signature(parser)
    add_input(parser)
    parser.add_argument("--labels", metavar="FILE", help="class names, one a line, for a model that does not say")


def add_input(parser) -> None:
    """How pixels become the input, where neither the model nor a manifest says."""
    parser.add_argument(
        "--mean", type=float, nargs="+", help="mean of the pixel values (0 to 255): one, or one for each channel"
    )
    parser.add_argument("--std", type=float, nargs="+", help="and their deviation; the input is (pixel - mean) / std")
    parser.add_argument(
        "--crop", metavar="HOW",
        help="stretch (the whole photograph, squeezed into the input), crop_then_resize or resize_then_crop (default: "
        "as the manifest or the published weights say, else stretch, as Keras' loaders do)",
    )  # fmt: skip
    parser.add_argument(
        "--resize", type=int, metavar="PIXELS",
        help="of a crop: the shorter side in pixels, of which the centre is kept (default: the size of the input)",
    )  # fmt: skip
    parser.add_argument(
        "--interpolation", metavar="HOW",
        help="nearest, bilinear, bicubic or lanczos, as Pillow has them; or keras_bilinear, without antialiasing "
        "(default: as for --crop, else keras_bilinear)",
    )  # fmt: skip


def image_line(described: str) -> str:
    """The line that says how a photograph becomes the input; ``described``: ``Preprocessing.described``."""
    return f"  Image: {described}. Another way: --crop, --resize, --interpolation"


def add_size(parser) -> None:
    """Width multiplier and input size."""
    parser.add_argument("--alpha", type=float, help="width multiplier, for networks that have one")
    add_resolution(parser)


def add_signature(parser) -> None:
    """Of a graph with several signatures, the one to take."""
    parser.add_argument(
        "--signature", metavar="KEY",
        help="of a .tflite file or SavedModel folder with several signatures: the one to take (of a folder the default "
        "is serving_default)",
    )  # fmt: skip


def add_resolution(parser) -> None:
    """Size of the input."""
    parser.add_argument(
        "--resolution", type=_size, metavar="PIXELS",
        help="height and width of the input in pixels: 224, or 192x256 for 192 rows of 256; of a model file, "
        "of the sides that the file leaves open",
    )  # fmt: skip


def _size(text: str) -> Size:
    """One number of pixels, or height x width."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise ArgumentTypeError(f"{text!r}: expected a number of pixels, or height x width as in 192x256")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def model_source(arguments) -> ModelSource:
    """The ``ModelSource`` that the options describe."""
    return ModelSource(**_values(ModelSource, arguments))


def request_of(cls, arguments, **others):
    """A request, its fields out of the options of the same names; ``others`` are fields whose options say them in
    another form."""
    values = _values(cls, arguments) | others
    if "source" in {field.name for field in fields(cls)} - set(values):
        values["source"] = model_source(arguments)
    return cls(**values)


def _values(cls, arguments) -> dict:
    """The options that are called like fields of a dataclass; lists as tuples."""
    given = {field.name: getattr(arguments, field.name) for field in fields(cls) if hasattr(arguments, field.name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def add_trust_calibration(parser) -> None:
    """--trust-calibration."""
    parser.add_argument(
        "--trust-calibration", action="store_true",
        help="the calibration images are meant to be as they are: only warn if most of them are noise, constant or "
        "copies, or look normalised twice",
    )  # fmt: skip


def add_min_agreement(parser, reference: str) -> None:
    """--min-agreement with a reference."""
    parser.add_argument(
        "--min-agreement", type=float, default=0.8, metavar="SHARE",
        help=f"fail (exit 1) if a file agrees with {reference} less than this share, 0 to 1 (default 0.8): a "
        "classifier's share of images with the same answer; a detector's mAP or a segmenter's mIoU with the answers of "
        f"{reference} as the truth; on annotated images also the share of its score that a file keeps",
    )  # fmt: skip


def add_void(parser) -> None:
    """--void."""
    parser.add_argument(
        "--void", type=int, help="value of mask pixels that belong to no class (default: as in the training, or 255)"
    )


def add_quiet(parser) -> None:
    """--quiet."""
    parser.add_argument("--quiet", action="store_true", help="no progress")


def display(arguments):
    """Progress on standard error, unless --quiet."""
    return nullcontext(silent) if arguments.quiet else Display()


def add_threads(parser) -> None:
    """--threads, of a training."""
    parser.add_argument(
        "--threads", type=int, metavar="N",
        help="threads of TensorFlow (default: one for each processor). The last bits of the weights depend on their "
        "number, which the manifest has: with the same number another machine trains the same bytes",
    )  # fmt: skip


def add_overwrite(parser) -> None:
    """--overwrite."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files in --out that are no earlier result of the same command"
    )


def add_json(parser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output and nothing else")


def emit(text: str) -> None:
    """Print to standard output; a reader that went away (a pager, head) is no error."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        sys.stdout = None
