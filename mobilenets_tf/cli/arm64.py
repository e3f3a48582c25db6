"""mobilenets-tf arm64"""

from mobilenets_tf.cli.options import add_json, add_quiet, display, emit
from mobilenets_tf.files import to_json

HELP = (
    "Set up an emulated arm64 runtime for verify --arm64: 110 MB to fetch, 160 MB on disk; the system is not changed."
)
EXAMPLE = "mobilenets-tf arm64"


def add_arguments(parser):
    parser.add_argument("--folder", help="where it is, or goes; left out, in the folder of the weights' cache")
    parser.add_argument("--remove", action="store_true", help="remove it")
    add_json(parser)
    add_quiet(parser)


def run(chosen):
    from mobilenets_tf.export.arm64 import setup

    folder = chosen.folder or setup.default_folder()
    if chosen.remove:
        removed = setup.remove(folder)
        emit(to_json({"folder": folder, "removed": bool(removed)}) if chosen.json else
             f"Removed {folder}" if removed else f"There was none in {folder}")  # fmt: skip
        return
    with display(chosen) as progress:
        emulator = setup.setup(folder, progress)
    if chosen.json:
        emit(to_json({"folder": folder, "versions": emulator.versions}))
        return
    emit(f"{folder}: {', '.join(f'{name} {version}' for name, version in emulator.versions.items())}")
    option = f" --folder {chosen.folder}" if chosen.folder else ""
    emit(f"Next:\n  mobilenets-tf verify FILE.tflite --arm64{option} --images PHOTOS/")
