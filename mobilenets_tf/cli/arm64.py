"""mobilenets-tf arm64"""

from mobilenets_tf.cli.options import add_json, add_quiet, display, emit
from mobilenets_tf.files import to_json

HELP = (
    "Set up the emulated arm64 runtime that verify --arm64 needs: downloads 110 MB and keeps 160 MB in one folder; the "
    "system is not changed."
)
EXAMPLE = "mobilenets-tf arm64"


def add_arguments(parser):
    parser.add_argument("--folder", help="folder of the runtime (default: in ~/.cache/mobilenets_tf)")
    parser.add_argument("--remove", action="store_true", help="remove the runtime instead of setting it up")
    add_json(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.export.arm64 import setup
    from mobilenets_tf.export.targets.folder import default_folder

    folder = arguments.folder or default_folder("arm64")
    if arguments.remove:
        removed = setup.remove(folder) > 0
        if arguments.json:
            emit(to_json({"folder": folder, "removed": removed}))
        else:
            emit(f"Removed {folder}" if removed else f"There was no arm64 runtime in {folder}")
        return
    with display(arguments) as progress:
        emulator = setup.setup(folder, progress)
    if arguments.json:
        emit(to_json({"folder": folder, "versions": emulator.versions}))
        return
    emit(f"{folder}: {', '.join(f'{name} {version}' for name, version in emulator.versions.items())}")
    option = f" --folder {arguments.folder}" if arguments.folder else ""
    emit(f"Next:\n  mobilenets-tf verify FILE.tflite --arm64{option} --images PHOTOS/")
