"""Which room stands on which floor: every import runs down, and there is no circle.

A room is a folder, or modules of a folder that are listed here by name. A module may import from its own room and from
rooms on lower floors, not from other rooms on its own floor. Imports inside functions and under ``if TYPE_CHECKING``
count. ARCHITECTURE.md shows the same map.
"""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up. A module belongs to the longest name that its own begins with.
FLOORS = (
    ("errors", "layer_names", "decibels", "drawing", "progress", "version"),
    ("public_api", "conventions", "files", "registry"),
    ("manifest", "worker"),
    ("data",),
    ("tflite", "weights"),
    ("quantize.schemes", "quantize.samples", "conversion"),
    ("networks", "pruning"),
    ("tasks", "factory"),
    ("models",),
    ("modelsource",),
    ("answers", "training"),
    ("quantize.calibration", "quantize.integers"),
    ("quantize.layers", "quantize.steps"),
    ("quantize",),
    ("quantize.qat",),
    ("export.targets",),
    (
        "export.delegates",
        "export.speed",
        "export.arm64",
        "export.gpu",
        "export.micro",
        "export.forms",
        "export.metadata",
        "export.request",
        "export.project_folder",
    ),
    ("export.tflite",),
    ("export.proof",),
    ("export.page",),
    ("export.android_app", "export.web_page", "export.npu"),
    ("export",),
    ("search",),
    ("cli",),
    ("",),  # the package itself: it names what is public
)
TASK_NAMES = {"classify", "detect", "segment", "regress"}
MOST_MODULES = 13  # side by side in one folder, but for the command line, which has one file a verb


def modules():
    """Name of each module, without the package's own -> its path."""
    names = {}
    for top, prefix in (("mobilenets_tf", ()), ("quantize", ("quantize",)), ("export", ("export",))):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = (*prefix, *path.relative_to(ROOT / top).with_suffix("").parts)
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module):
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in ROOMS), None)


def imported(text):
    """The package's modules that a module's text imports, wherever in the text."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, inner = name.partition(".")
            if top == "mobilenets_tf":
                yield inner if inner in MODULES else inner.rpartition(".")[0]


def upward(module, text):
    """The imports of a module that do not run down."""
    own = room_of(module)
    for other in sorted(set(imported(text)) - {module}):
        room = room_of(other)
        if room != own and ROOMS[room] >= ROOMS[own]:
            yield other


@pytest.mark.parametrize("module", MODULES)
def test_every_import_runs_down(module):
    assert room_of(module) is not None, f"{module} is in no room: give its room a floor"
    assert not list(upward(module, MODULES[module].read_text()))


def test_no_circles():
    graph = {name: set(imported(path.read_text())) - {name} for name, path in MODULES.items()}
    done, path = set(), []

    def visit(module):
        assert module not in path, f"a circle of imports: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        path.append(module)
        for other in sorted(graph.get(module, ())):
            visit(other)
        done.add(path.pop())

    for module in sorted(graph):
        visit(module)


@pytest.mark.parametrize(
    "text",
    [
        "from mobilenets_tf.export import tflite",
        "def function():\n    import mobilenets_tf.cli.deploy",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mobilenets_tf.quantize.qat.aware import Aware",
    ],
)
def test_an_import_that_runs_up_is_seen_wherever_it_stands(text):
    assert list(upward("data.images", text))


def tasks_by_name(text):
    """Yield the lines in which something is compared with the name of a task."""
    for node in ast.walk(ast.parse(text)):
        for side in (node.left, *node.comparators) if isinstance(node, ast.Compare) else ():
            values = side.elts if isinstance(side, (ast.Tuple, ast.List, ast.Set)) else [side]
            if any(isinstance(value, ast.Constant) and value.value in TASK_NAMES for value in values):
                yield node.lineno


def test_a_task_is_an_object():
    """What tasks do differently is in their room, or in a table with a row for each."""
    found = {name: list(tasks_by_name(path.read_text())) for name, path in MODULES.items() if room_of(name) != "tasks"}
    assert not any(found.values()), {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize("text", ['task == "detect"', 'self.task.name in ("classify", "regress")', '"segment" != task'])
def test_a_comparison_with_a_task_is_seen(text):
    assert list(tasks_by_name(text)) == [1]


def test_no_folder_is_a_heap():
    folders = Counter(path.parent for name, path in MODULES.items() if path.name != "__init__.py")
    large = {str(folder.relative_to(ROOT)): count for folder, count in folders.items() if count > MOST_MODULES}
    assert set(large) <= {"mobilenets_tf/cli"}, large


def test_floors_name_rooms_that_exist():
    assert [room for room in ROOMS if room_of(room) and room not in MODULES] == []
