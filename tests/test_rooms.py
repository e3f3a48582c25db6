"""Which room stands on which floor, and that every import runs down.

A room is a folder, or a module that stands by itself. A module may import from its own room and from rooms on lower
floors. Imports inside functions and under ``if TYPE_CHECKING`` count. ARCHITECTURE.md shows the same map.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the ground up. Rooms of one line do not import each other.
FLOORS = (
    {"package"},
    {"errors", "conventions", "layer_names", "drawing"},
    {"progress", "files", "manifest"},
    {"worker", "registry"},
    {"data"},
    {"tflite"},
    {"networks"},
    {"tasks"},
    {"weights"},
    {"factory", "modelsource", "conversion"},
    {"answers", "training", "quantize"},
    {"quantize.steps"},
    {"quantize.qat"},
    {"export"},
    {"cli"},
)
MOST_MODULES = 13  # side by side in one room, but for the command line, which has one file a verb


def floor_of(room):
    return next((floor for floor, rooms in enumerate(FLOORS) if room in rooms), None)


def modules():
    """Dotted name of each module of the package -> its path."""
    found = {}
    for top, prefix in (
        ("mobilenets_tf", "mobilenets_tf"),
        ("quantize", "mobilenets_tf.quantize"),
        ("export", "mobilenets_tf.export"),
    ):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT / top).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((prefix, *parts))] = path
    return found


MODULES = modules()


def imported(path):
    """The package's modules that a module's text imports, wherever in the text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "mobilenets_tf":
                yield name if name in MODULES else name.rpartition(".")[0]


GRAPH = {name: sorted(set(imported(path)) - {name}) for name, path in MODULES.items()}
