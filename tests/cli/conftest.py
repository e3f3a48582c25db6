import warnings

import pytest

from mobilenets_tf.anchors import ssd_anchors
from mobilenets_tf.cli import main
from mobilenets_tf.export import detector_forms
from mobilenets_tf.postprocess import Postprocess
from tests import colour_files
from tests.colour_files import GRIDS, LABELS, PREPROCESSING, quarters, write


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A file of each kind, two photographs, and things that are neither; the working directory."""
    monkeypatch.chdir(tmp_path)
    nms = detector_forms.with_form(colour_files.detector(), "nms", Postprocess(ssd_anchors(GRIDS), 3))
    write(tmp_path / "class.tflite", colour_files.classifier(), task="classify", **TOLD)
    write(tmp_path / "boxes.tflite", colour_files.detector(), **RAW)
    write(tmp_path / "nms.tflite", nms, task="detect", form="nms", **TOLD)
    write(tmp_path / "mask.tflite", colour_files.segmenter(), task="segment", form="stride", **TOLD)
    for name, kind in (("bare.tflite", "detector"), ("bare_class.tflite", "classifier")):
        write(tmp_path / name, getattr(colour_files, kind)())
    (tmp_path / "names.txt").write_text("rot\ngrün\nblau\n")
    quarters("red", "black", "black", "blue", size=(120, 80)).save(tmp_path / "photo.png")
    quarters("green", "green", "red", "red", size=(60, 80)).save(tmp_path / "other.jpg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:90])
    (tmp_path / "taken.png").write_text("mine")
    return tmp_path
