"""mobilenets-tf train"""

import argparse
import importlib.util
import shlex
from dataclasses import fields
from pathlib import Path

from mobilenets_tf.cli.deploy import add_input_form, add_output_form
from mobilenets_tf.cli.options import (
    add_model,
    add_overwrite,
    add_quiet,
    add_threads,
    display,
    emit,
    image_line,
    model_source,
)
from mobilenets_tf.data.preprocessing import Preprocessing

HELP = "Train a network: fine-tune it on your annotated images (the default), or follow its paper's recipe."
EXAMPLE = "mobilenets-tf train efficientnet_lite0 --data photos/ --out build/"


def add_arguments(parser):
    add_model(parser)
    parser.add_argument(
        "--data", required=True, metavar="SOURCE",
        help="annotated images. For a classifier: a folder with a sub-folder for each class, a CSV with file and "
        "class_index, TFRecords in the ImageNet layout (a folder or 'train-*'), or tfds:NAME:SPLIT. For a detector: a "
        "folder with images/ and annotations/ (VOC's XML), or COCO's .json. For a segmenter: a folder with images/ and "
        "masks/ (PNG whose values are classes)",
    )  # fmt: skip
    parser.add_argument("--task", help="classify, detect or segment (default: the network's)")
    parser.add_argument("--void", type=int, default=255, help="in masks, the value of pixels of no class (default 255)")
    parser.add_argument("--evaluate", metavar="SOURCE", help="images to judge with (default: a fifth of the files)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--recipe", default="finetune",
        help="finetune (default): starts from --weights, or from ImageNet's; scratch: starts from random weights, for "
        "a few thousand images; recover: for a network that was pruned; paper: trains a classifier as its paper did, "
        "for ImageNet",
    )  # fmt: skip
    parser.add_argument(
        "--epochs",
        type=int,
        help="passes over the images; stages and warm-up keep their shares (default: the recipe's)",
    )
    parser.add_argument("--batch-size", type=int, help="images in a step, of all replicas (default: the recipe's)")
    parser.add_argument("--learning-rate", type=float, help="the highest learning rate (default: the recipe's)")
    parser.add_argument("--keep", default="last", help="weights to keep: of the last epoch (default) or of the best")
    parser.add_argument(
        "--deploy", metavar="SCHEME", help="afterwards also deploy with this scheme (int8, float16, ...)"
    )
    add_input_form(parser)
    add_output_form(parser)
    parser.add_argument("--broken", default="fail", help="what to do about unreadable images: fail (default) or skip")
    parser.add_argument("--label-offset", type=int, help="in TFRecords, the label of the first class (default 1)")
    parser.add_argument(
        "--teacher", metavar="MODEL",
        help="a network of the same task and classes to learn from too: a .keras file, or a registered classifier with "
        "its ImageNet weights (--fetch is for these too)",
    )  # fmt: skip
    parser.add_argument(
        "--distill",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="the teacher's share of the loss, 0 to 1 (default 0.5)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="divides both networks' logits in the teacher's share (default 1)",
    )
    parser.add_argument(
        "--precision", default="float32", help="float32 (default), bfloat16, or float16 with loss scaling"
    )
    parser.add_argument("--jit-compile", action="store_true", help="compile the training step with XLA")
    parser.add_argument("--sync-batchnorm", action="store_true", help="BatchNorm statistics over all replicas")
    parser.add_argument(
        "--distribute", default="auto",
        help="none, mirrored (a replica on each GPU), multi_worker (a process on each machine that TF_CONFIG or Slurm "
        "names), or auto (default): multi_worker or mirrored where there are several machines or GPUs",
    )  # fmt: skip
    parser.add_argument("--replicas", type=int, help="replicas on the processor, for mirrored without GPUs (default 2)")
    add_threads(parser)
    parser.add_argument("--save-every", type=int, metavar="STEPS", help="also write a checkpoint every so many steps")
    parser.add_argument("--seed", type=int, default=0, help="of batches, augmentation and new weights (default 0)")
    parser.add_argument("--restart", action="store_true", help="forget an unfinished training in --out")
    add_overwrite(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.training.curves import summary
    from mobilenets_tf.training.job import train
    from mobilenets_tf.training.request import TrainRequest

    options = {field.name: getattr(arguments, field.name) for field in fields(TrainRequest) if field.name != "source"}
    request = TrainRequest(source=model_source(arguments), **options)
    if arguments.deploy is not None:
        _check_deploy(arguments, request)
    with display(arguments) as progress:
        result = train(request, progress)
    last = result.manifest["epochs"][-1]
    emit(f"{result.path}  {last['epoch']} epochs in {result.seconds:.0f} s: {summary(last)}")
    if not result.path.is_file():  # another worker wrote it
        return None
    if known := Preprocessing.of(result.manifest):
        emit(image_line(known.described()))
    emit(f"Curves: {result.curves}")
    logs = shlex.quote(str(result.path.with_suffix(".logs")))
    installed = importlib.util.find_spec("tensorboard") is not None
    emit(f"Logs: tensorboard --logdir {logs}" + ("" if installed else "  (first: pip install tensorboard)"))
    return _deploy(arguments, result.path) if arguments.deploy else _print_next(arguments, result.path)


def _print_next(arguments, path: Path) -> None:
    emit("Next:")
    words = _deploy_words(arguments, path, "int8", "deployed")
    emit(f"  mobilenets-tf deploy {shlex.join(words)}")


def _deploy_words(arguments, path: Path, scheme: str, out: str) -> list[str]:
    """The words behind ``mobilenets-tf deploy`` that make a file of the trained model."""
    words = [str(path), "--scheme", scheme, "--calibration", arguments.data]
    words += ["--evaluate", arguments.evaluate] if arguments.evaluate else []
    words += ["--input", arguments.input] if arguments.input != "normalised" else []
    words += ["--output", arguments.output] if arguments.output else []
    words += [] if arguments.score_threshold is None else ["--score-threshold", str(arguments.score_threshold)]
    return [*words, "--out", out]


def _deploy_arguments(arguments, path: Path):
    from mobilenets_tf.cli import deploy

    parser = argparse.ArgumentParser()
    deploy.add_arguments(parser)
    words = _deploy_words(arguments, path, arguments.deploy, arguments.out)
    words += ["--quiet"] if arguments.quiet else []
    words += ["--overwrite"] if arguments.overwrite else []
    return parser.parse_args(words)


def _check_deploy(arguments, request) -> None:
    """Refuse, before the training, what ``deploy`` would refuse after it."""
    from mobilenets_tf.cli.options import request_of
    from mobilenets_tf.export import deployment
    from mobilenets_tf.export.request import DeployRequest

    path = Path(request.out) / f"{request.name}.keras"
    deployment.check_options(request_of(DeployRequest, _deploy_arguments(arguments, path)), request.source)


def _deploy(arguments, path: Path) -> int:
    from mobilenets_tf.cli import deploy

    return deploy.run(_deploy_arguments(arguments, path))
