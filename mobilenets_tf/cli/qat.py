"""mobilenets-tf qat"""

import shlex
from dataclasses import fields

from mobilenets_tf.cli.deploy import add_input_form, add_output_form
from mobilenets_tf.cli.options import add_model, add_quiet, display, emit, model_source

HELP = "Quantisation-aware fine-tuning: train with int8 rounding in place, write the int8 file and a comparison."
EXAMPLE = "mobilenets-tf qat mobilenet_v3_small.keras --images photos/ --mean 127.5 --std 127.5 --out build/"


def add_arguments(parser):
    add_model(parser)
    parser.add_argument(
        "--images", required=True, metavar="DATA",
        help="annotated images to train with: a CSV with file and class_index, or a sub-folder a class; for a detector "
        "or segmenter what train takes as --data",
    )  # fmt: skip
    parser.add_argument("--validation", metavar="DATA", help="such images to judge with; left out, a fifth of --images")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--scheme", default="int8", help="int8 (default) or int8_float_io")
    parser.add_argument("--per-tensor", action="store_true", help="one scale a layer's weights, for chips that need it")
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
        help="how much of what is taught is the float model's own answer, 0 (default) to 1; for classifiers",
    )  # fmt: skip
    add_input_form(parser)
    add_output_form(parser)
    parser.add_argument("--calibration-count", type=int, default=128, metavar="N", help="images to choose ranges from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", metavar="DIR", help="keep the state of each epoch here; run again to go on")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out that are not from here")
    add_quiet(parser)


def run(chosen):
    from mobilenets_tf.export.fine_tuned import FineTuneRequest, fine_tune_and_deploy

    options = {field.name: getattr(chosen, field.name) for field in fields(FineTuneRequest) if field.name != "source"}
    with display(chosen) as progress:
        result = fine_tune_and_deploy(FineTuneRequest(source=model_source(chosen), **options), progress)
    size = result.manifest["bytes"] / 1e6
    emit(f"{result.path}  {size:.2f} MB, {result.seconds:.0f} s")
    tuning = result.manifest["fine_tuning"]
    emit(f"  {tuning['training_images']} images to train, {result.fine_tuned.images} to judge; weights of epoch "
         f"{tuning['best_epoch']} of {len(tuning['validation_accuracies']) - 1}")  # fmt: skip
    for line in result.lines():
        emit(f"  {line}")
    for failure in result.failures:
        emit(f"  FAILED: {failure}")
    emit(f"Report: {result.report}")
    emit(f"For Android: {result.path}.android.md")
    emit("Next:")
    judged = shlex.quote(chosen.validation or chosen.images)
    emit(f"  mobilenets-tf evaluate {shlex.quote(str(result.path))} --images {judged}")
    return 1 if result.failures else 0
