"""mobilenets-tf gpu"""

from mobilenets_tf.cli.options import add_json, add_quiet, display, emit
from mobilenets_tf.files import to_json

HELP = (
    "Set up the Vulkan drivers that verify --gpu needs: downloads 86 MB of Debian's packages and keeps 192 MB in one "
    "folder; the system is not changed."
)
EXAMPLE = "mobilenets-tf gpu"


def add_arguments(parser):
    parser.add_argument("--folder", help="folder of the drivers (default: in ~/.cache/mobilenets_tf)")
    parser.add_argument("--remove", action="store_true", help="remove the drivers instead of setting them up")
    add_json(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.export.gpu import setup
    from mobilenets_tf.export.gpu.accelerator import HALF, NO_HALF
    from mobilenets_tf.export.targets.folder import default_folder

    folder = arguments.folder or default_folder("gpu")
    if arguments.remove:
        removed = setup.remove(folder) > 0
        if arguments.json:
            emit(to_json({"folder": folder, "removed": removed}))
        else:
            emit(f"Removed {folder}" if removed else f"There were no drivers in {folder}")
        return
    with display(arguments) as progress:
        accelerator = setup.setup(folder, progress)
    if arguments.json:
        emit(to_json({"folder": folder, "versions": accelerator.versions, "precisions": list(accelerator.drivers)}))
        return
    emit(f"{folder}: {', '.join(f'{name} {version}' for name, version in accelerator.versions.items())}")
    if HALF not in accelerator.drivers:
        emit(NO_HALF)
    option = f" --folder {arguments.folder}" if arguments.folder else ""
    emit(f"Next:\n  mobilenets-tf verify FILE.tflite --gpu{option} --images PHOTOS/")
