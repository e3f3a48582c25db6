"""mobilenets-tf train"""

import argparse
import shlex
from dataclasses import fields, replace
from pathlib import Path

from mobilenets_tf.cli.options import add_model, add_quiet, display, emit, model_source
from mobilenets_tf.modelsource import ModelSource

HELP = "Train a network: fine-tune it on your annotated images (the default), or follow its paper's recipe."
EXAMPLE = "mobilenets-tf train --model efficientnet_lite0 --data photos/ --out build/"


def add_arguments(parser):
    add_model(parser, "--model")
    parser.add_argument(
        "--data", required=True, metavar="SOURCE",
        help="to classify: a folder with a sub-folder a class, a CSV with file and class_index, TFRecords in the "
        "ImageNet layout (a folder or 'train-*'), or tfds:NAME:SPLIT; to detect: a folder with images/ and "
        "annotations/ (VOC's XML), or COCO's .json; to segment: one with images/ and masks/ (PNG of class numbers)",
    )  # fmt: skip
    parser.add_argument("--task", help="classify, detect or segment; left out, the network's")
    parser.add_argument("--void", type=int, default=255, help="in masks, pixels of no class have this (default 255)")
    parser.add_argument("--validation", metavar="SOURCE", help="images to judge with; left out, a fifth of the files")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--recipe", default="finetune",
        help="finetune (default): from --weights, or imagenet's; scratch: from the start on a few thousand images; "
        "paper: as its paper trained it on ImageNet",
    )  # fmt: skip
    parser.add_argument("--epochs", type=int, help="left out, the recipe's; its stages and warm-up keep their shares")
    parser.add_argument("--batch-size", type=int, help="of all replicas together; left out, the recipe's")
    parser.add_argument("--learning-rate", type=float, help="at its peak; left out, the recipe's")
    parser.add_argument("--keep", default="last", help="weights of the last epoch (default), or of the best")
    parser.add_argument("--deploy", metavar="SCHEME", help="then deploy to this scheme too (int8, float16, ...)")
    parser.add_argument("--broken", default="fail", help="images that cannot be read: fail (default) or skip")
    parser.add_argument("--label-offset", type=int, help="TFRecords: label of the first class (default 1)")
    parser.add_argument("--teacher", metavar="MODEL", help="to learn from: a .keras file, or a network of ImageNet")
    parser.add_argument("--distill", type=float, default=0.5, metavar="SHARE", help="of the loss that is the teacher's")
    parser.add_argument("--temperature", type=float, default=1.0, help="of both networks' answers for that share")
    parser.add_argument("--precision", default="float32", help="float32 (default), bfloat16, float16 with loss scaling")
    parser.add_argument("--jit-compile", action="store_true", help="compile the step with XLA")
    parser.add_argument("--sync-batchnorm", action="store_true", help="BatchNorm statistics over all replicas")
    parser.add_argument(
        "--distribute", default="auto",
        help="none, mirrored (a replica on each GPU), multi_worker (a process on each machine, by TF_CONFIG or Slurm), "
        "or auto (default): what there is",
    )  # fmt: skip
    parser.add_argument("--replicas", type=int, help="mirrored without GPUs: replicas on the processor")
    parser.add_argument("--save-every", type=int, metavar="STEPS", help="checkpoints between those after each epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restart", action="store_true", help="forget an unfinished training in --out")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out that are not from here")
    add_quiet(parser)


def run(chosen):
    from mobilenets_tf.training.job import TrainRequest, described, train

    options = {field.name: getattr(chosen, field.name) for field in fields(TrainRequest) if field.name != "source"}
    if chosen.teacher is not None:
        teacher = ModelSource(chosen.teacher)
        options["teacher"] = teacher if teacher.is_file else replace(teacher, weights="imagenet")
    request = TrainRequest(source=model_source(chosen), **options)
    if chosen.deploy is not None:
        from mobilenets_tf.quantize.schemes import get

        get(chosen.deploy)
    with display(chosen) as progress:
        result = train(request, progress)
    last = result.manifest["epochs"][-1]
    emit(f"{result.path}  {last['epoch']} epochs in {result.seconds:.0f} s: {described(last)}")
    if not result.path.is_file():  # another worker wrote it
        return None
    emit(f"Curves: {result.curves}")
    emit(f"TensorBoard: tensorboard --logdir {shlex.quote(str(result.path.with_suffix('.logs')))}")
    return _deploy(chosen, result.path) if chosen.deploy else _next(chosen, result.path)


def _next(chosen, path: Path) -> None:
    emit("Next:")
    data = shlex.quote(chosen.data)
    judged = f" --evaluate {shlex.quote(chosen.validation)}" if chosen.validation else ""
    emit(f"  mobilenets-tf deploy {shlex.quote(str(path))} --scheme int8 --calibration {data}{judged} --out deployed")


def _deploy(chosen, path: Path) -> int:
    from mobilenets_tf.cli import deploy

    parser = argparse.ArgumentParser()
    deploy.add_arguments(parser)
    words = [str(path), "--scheme", chosen.deploy, "--calibration", chosen.data, "--out", chosen.out]
    words += ["--evaluate", chosen.validation] if chosen.validation else []
    words += ["--quiet"] if chosen.quiet else []
    return deploy.run(parser.parse_args(words))
