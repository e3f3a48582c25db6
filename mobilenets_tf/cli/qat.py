"""mobilenets-tf qat"""

import shlex

from mobilenets_tf.cli.deploy import add_input_form, add_output_form
from mobilenets_tf.cli.options import (
    add_model,
    add_overwrite,
    add_quiet,
    add_threads,
    add_trust_calibration,
    add_void,
    display,
    emit,
    image_line,
    request_of,
)
from mobilenets_tf.data.preprocessing import Preprocessing

HELP = "Quantisation-aware fine-tuning: train with int8 rounding in place, write the int8 file and a comparison."
EXAMPLE = "mobilenets-tf qat mobilenet_v3_small.keras --data photos/ --mean 127.5 --std 127.5 --out build/"


def add_arguments(parser):
    add_model(parser)
    parser.add_argument(
        "--data", required=True, metavar="DATA",
        help="annotated images to train with: a CSV with file and class_index, or a sub-folder a class; for a detector "
        "or segmenter what train takes as --data",
    )  # fmt: skip
    parser.add_argument("--evaluate", metavar="DATA", help="such images to judge with; left out, a fifth of --data")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--scheme", default="int8", help="int8 (default) or int8_float_io")
    parser.add_argument("--per-tensor", action="store_true", help="one scale for all weights of a layer")
    parser.add_argument("--epochs", type=int, default=10, help="at most (default 10)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default 32; 16 for a detector, 8 for a segmenter")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of Adam, to begin with (default 1e-4)")
    parser.add_argument("--patience", type=int, default=3, help="epochs without a gain before it stops (default 3)")
    parser.add_argument(
        "--freeze-norms-after", type=int, default=0, metavar="EPOCHS",
        help="BatchNormalization follows the batches for so many epochs first (default 0: frozen from the start)",
    )  # fmt: skip
    parser.add_argument(
        "--distill", type=float, default=0.0, metavar="SHARE",
        help="share of the loss that teaches the float model's own answers instead of the annotations: 0 (default) "
        "to 1",
    )  # fmt: skip
    add_input_form(parser)
    add_output_form(parser)
    add_trust_calibration(parser)
    add_void(parser)
    parser.add_argument("--calibration-count", type=int, default=128, metavar="N", help="images to choose ranges from")
    parser.add_argument("--seed", type=int, default=0)
    add_threads(parser)
    parser.add_argument("--checkpoint", metavar="DIR", help="keep the state of each epoch here; run again to go on")
    add_overwrite(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.export.fine_tuned import QatRequest, qat

    with display(arguments) as progress:
        tuned = qat(request_of(QatRequest, arguments), progress)
    size = tuned.manifest["bytes"] / 1e6
    emit(f"{tuned.path}  {size:.2f} MB, {tuned.seconds:.0f} s")
    if known := Preprocessing.of(tuned.manifest):
        emit(image_line(known.described()))
    tuning = tuned.manifest["fine_tuning"]
    emit(f"  {tuning['training_images']} images to train, {tuned.fine_tuned.images} to judge")
    emit(f"  {tuned.outcome}")
    for line in tuned.lines():
        emit(f"  {line}")
    for line in tuned.badge.lines():
        emit(f"  {line}")
    emit(f"Report: {tuned.report}")
    if tuned.passed:
        emit(f"For Android: {tuned.path}.android.md")
    emit("Next:")
    judged = shlex.quote(arguments.evaluate or arguments.data)
    emit(f"  mobilenets-tf evaluate {shlex.quote(str(tuned.path))} --data {judged}")
    return 0 if tuned.passed else 1
