"""The public surface: short, complete, documented; and enough for the examples."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mobilenets_tf

PUBLIC = ("mobilenets_tf", *(f"mobilenets_tf.{name}" for name in ("data", "export", "quantize", "training")))
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", PUBLIC)
def test_dir_shows_the_public_names_and_each_is_there_and_documented(package):
    module = importlib.import_module(package)
    names = [name for name in dir(module) if not name.startswith("_")]
    assert set(names) == {name for name in module.__all__ if not name.startswith("_")} and names
    for name in names:
        value = getattr(module, name)
        documented = inspect.getdoc(value) if callable(value) or inspect.ismodule(value) else True
        assert documented, f"{package}.{name} has no docstring"


def test_every_verb_of_the_command_line_is_a_request_and_a_function():
    import mobilenets_tf

    for request, function in (
        ("TrainRequest", "train"), ("DeployRequest", "deploy"), ("ReportRequest", "report"), ("QatRequest", "qat"),
        ("EvaluateRequest", "evaluate"), ("PredictRequest", "predict"), ("VerifyRequest", "verify_file"),
        ("ExportRequest", "export_file"), ("SensitivityRequest", "write_sensitivity"),
        ("BenchmarkRequest", "benchmark"), ("PhoneRequest", "benchmark_on_phone"),
    ):  # fmt: skip
        parameters = inspect.signature(getattr(mobilenets_tf, function)).parameters
        assert next(iter(parameters)) == "request" and "progress" in parameters
        assert inspect.getdoc(getattr(mobilenets_tf, request)).count("\n") >= 2
    assert callable(mobilenets_tf.inspect) and callable(mobilenets_tf.list_models)


def test_an_import_costs_nothing():
    code = "import sys, mobilenets_tf\nassert not {'tensorflow', 'keras', 'matplotlib', 'PIL'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_use_public_names_alone(example):
    for node in ast.walk(ast.parse(example.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        own = [name for name in names if name.split(".")[0] == "mobilenets_tf"]
        assert set(own) <= set(PUBLIC), f"{example.name} imports {own}"


def test_predictions_are_decoded():
    import mobilenets_tf

    rows = mobilenets_tf.decode_predictions([[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]], ["ant", "bee", "cat"], top=2)
    assert rows == [[(1, "bee", 0.7), (2, "cat", 0.2)], [(0, "ant", 0.5), (2, "cat", 0.5)]]
    assert mobilenets_tf.decode_predictions([0.0, 1.0], top=1) == [[(1, "class 1", 1.0)]]


def test_the_preprocessing_and_the_labels_of_a_weight_set():
    import mobilenets_tf

    preprocessing = mobilenets_tf.weight_preprocessing("efficientnet_lite0")
    assert (preprocessing.mean[0], preprocessing.std[0], preprocessing.size) == (127, 128, 224)
    assert mobilenets_tf.weight_preprocessing("efficientnet_lite0", resolution=160).size == 160
    assert len(mobilenets_tf.weight_labels("efficientnet_lite0")) == 1000
    with pytest.raises(mobilenets_tf.RequestError, match="imagenet21k"):
        mobilenets_tf.weight_preprocessing("efficientnet_lite0", "imagenet21k")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mobilenets_tf.DeployRequest("mobilenet_v2", "out", mean=0), "source=ModelSource(..., mean=...)"),
        (lambda: mobilenets_tf.DeployRequest("mobilenet_v2", "out", shceme="int8"), "Did you mean scheme="),
        (lambda: mobilenets_tf.DeployRequest("mobilenet_v2"), "missing a required argument: 'out'"),
        (lambda: mobilenets_tf.EvaluateRequest("a", "b", weights="imagenet"), "source=ModelSource(..., weights=...)"),
        (lambda: mobilenets_tf.Preprocessing(men=0), "Did you mean mean="),
        (lambda: mobilenets_tf.list_models(tsk="detect"), "Did you mean task="),
        (lambda: mobilenets_tf.list_models("mobilenet", "detect", "more"), "too many positional arguments"),
    ],
)
def test_arguments_that_are_none_name_the_right_ones(call, said):
    with pytest.raises(mobilenets_tf.RequestError, match=re.escape(said)):
        call()
