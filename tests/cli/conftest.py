import warnings

import pytest

from mobilenets_tf.cli import main
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.tasks.postprocess import Postprocess
from tests.support import colour_files
from tests.support.colour_files import GRIDS, LABELS, PREPROCESSING, quarters, write


@pytest.fixture
def in_this_process(monkeypatch):
    """No child that would import TensorFlow once more."""
    monkeypatch.setattr("mobilenets_tf.worker._inside", True)


@pytest.fixture
def call(capsys, monkeypatch):
    """A function: arguments -> exit status, standard output, standard error."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def call(*arguments):
        capsys.readouterr()
        status = main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


TOLD = {"labels": LABELS, "preprocessing": PREPROCESSING}
RAW = {"task": "detect", "form": "raw", "anchors": {"grids": GRIDS}, **TOLD}


@pytest.fixture(scope="session")
def contents():
    """What is in the files of ``folder``, by name."""
    raw = colour_files.detector()
    return {
        "class.tflite": (colour_files.classifier(), {"task": "classify", **TOLD}),
        "boxes.tflite": (raw, RAW),
        "nms.tflite": (
            detector_forms.with_form(raw, "nms", Postprocess(ssd_anchors(GRIDS), 3)),
            {"task": "detect", **TOLD},
        ),
        "mask.tflite": (colour_files.segmenter(), {"task": "segment", "form": "stride", **TOLD}),
        "bare.tflite": (raw, {}),
        "bare_class.tflite": (colour_files.classifier(), {}),
    }


@pytest.fixture
def folder(tmp_path, monkeypatch, contents):
    """A file of each kind, two photographs, and things that are neither; the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, (content, manifest) in contents.items():
        write(tmp_path / name, content, **manifest)
    (tmp_path / "names.txt").write_text("rot\ngrün\nblau\n")
    quarters("red", "black", "black", "blue", size=(120, 80)).save(tmp_path / "photo.png")
    quarters("green", "green", "red", "red", size=(60, 80)).save(tmp_path / "other.jpg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:90])
    (tmp_path / "taken.png").write_text("mine")
    return tmp_path
