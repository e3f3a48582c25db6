"""mobilenets-tf export"""

from dataclasses import asdict
from pathlib import Path

from mobilenets_tf.cli.deploy import add_input_form, add_scheme
from mobilenets_tf.cli.options import add_model, add_quiet, display, emit, model_source
from mobilenets_tf.data import images
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.tflite import image_input

HELP = "Convert a model to one .tflite file and its manifest, without judging it (see deploy for that)."
EXAMPLE = "mobilenets-tf export my_model.keras --mean 127.5 --std 127.5 --scheme float16 --out my_model.tflite"


def add_arguments(parser):
    add_model(parser)
    add_scheme(parser)
    add_input_form(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the .tflite file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not an earlier export")
    add_quiet(parser)


def run(chosen):
    from mobilenets_tf import files
    from mobilenets_tf.errors import RequestError
    from mobilenets_tf.quantize import schemes
    from mobilenets_tf.worker import Worker

    scheme = schemes.get(chosen.scheme)
    if chosen.per_tensor and not scheme.calibrated:
        raise RequestError(f"--per-tensor is for the calibrated schemes; {scheme.name!r} is none of them.")
    source = model_source(chosen)
    source.check()
    image_input.check(chosen.input)
    out = Path(chosen.out)
    if out.suffix != ".tflite":
        raise RequestError(f"--out {out}: expected a file that ends in .tflite.")
    files.check_folder(out.parent)
    files.check_replaceable(out.parent, [out.name, out.name + ".json"], chosen.overwrite)
    found = None
    if chosen.calibration is not None:
        found = images.demo_photos() if chosen.calibration == "demo" else images.find_images(chosen.calibration)
        found = found.sample(chosen.calibration_count, chosen.seed)
        images.check(found)
    elif scheme.calibrated:
        raise RequestError(f"The scheme {scheme.name!r} needs --calibration images.")
    with Worker() as worker, display(chosen) as progress:
        options = {"overwrite": chosen.overwrite, "per_tensor": chosen.per_tensor, "input": chosen.input}
        manifest = worker.call(_export, source, scheme.name, found, str(out), options, progress=progress)
    emit(f"{out}  {manifest['bytes'] / 1e6:.2f} MB")
    emit(f"Next:\n  mobilenets-tf verify {out} {source.options('--model')} --images PHOTOS/")


def _export(source: ModelSource, scheme: str, found, out: str, options: dict, progress):
    """Runs in the worker."""
    from mobilenets_tf.export.tflite import to_tflite
    from mobilenets_tf.quantize.calibration import Calibration
    from mobilenets_tf.quantize.post_training import Recipe
    from mobilenets_tf.tflite.image_input import ImageInput

    model = source.build()
    facts, calibration, image = {"model": source.facts()}, None, None
    if found is not None or source.says_its_input or options["input"] != "normalised":
        image = ImageInput(source.preprocessing(model), options["input"])
        facts["preprocessing"], facts["model_preprocessing"] = asdict(image.given), asdict(image.wanted)
        calibration = Calibration.from_images(found, image.given) if found else None
    recipe = Recipe(per_tensor=True) if options["per_tensor"] else None
    exported = to_tflite(
        model, scheme, calibration, out, recipe=recipe, image=image, labels=source.label_names(),
        overwrite=options["overwrite"], facts=facts, progress=progress,
    )  # fmt: skip
    return exported.manifest
