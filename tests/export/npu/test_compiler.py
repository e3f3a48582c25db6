"""Files compiled for NPUs: with Qualcomm's compiler where it is installed, and with stand-ins where it is not."""

import importlib.util
import json

import pytest

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import metadata, project_folder
from mobilenets_tf.export.delegates.inspection import inspect
from mobilenets_tf.export.npu import chips, compile_file, compiler, result
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.file_metadata import read_metadata
from mobilenets_tf.tflite.image_input import ImageInput
from tests.support.deployed_files import deployed

QUALCOMM = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn is not installed; .ci/run installs it"
)


def test_chips_and_compilers_that_are_not_there_are_refused(monkeypatch):
    with pytest.raises(RequestError, match="Unknown chip 'SM8751'.*SM8750"):
        compiler.check(["SM8751"])
    with pytest.raises(RequestError, match="MediaTek's compiler is not on this machine.*ai_edge_litert_sdk_mediatek"):
        compiler.check(["MT6991"])
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install --no-deps onnxruntime-qnn"):
        compiler.check(["SM8750"])


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import os; os.abort()", "failed: exit status -6"),
        ("import sys; sys.exit('no licence')", "failed: no licence"),
        ("print('[1]')", "failed: exit status 0"),
        ('print(\'{"SM8750": {"error": "too large"}}\')', "refuses the file for SM8750: too large"),
        ("print('{}')", "refuses the file for SM8750: no reason given"),
    ],
)
def test_a_compiler_that_fails_is_said_in_a_line(monkeypatch, tmp_path, script, said):
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr(compiler, "libraries", lambda vendor: None)
    monkeypatch.setattr(compile_file, "__file__", str(tmp_path / "script.py"))
    with pytest.raises(RequestError, match=f"Qualcomm's compiler {said}"):
        compiler.compile_for(deployed("classify_crop")[0], ["SM8750"])


@QUALCOMM
@pytest.mark.slow
def test_files_are_compiled_for_qualcomms_chips(tmp_path):
    name = "segment_full"
    content, manifest = deployed(name)
    image = ImageInput(Preprocessing.of(manifest))
    content = metadata.add(content, metadata.describe("net", image, manifest["labels"], "segment"))
    file, folder = tmp_path / f"{name}.tflite", tmp_path / "npu"
    file.write_bytes(content)
    compiled, pack = result.write(folder, file, ["SM8750", "SM8550"], {"npu": ["SM8750", "SM8550"]})
    operators = flatbuffer.read(content).subgraphs[0].operators
    for chip, each in zip(("SM8750", "SM8550"), compiled, strict=True):
        assert (each.chip, each.manufacturer) == (chip, "Qualcomm")
        assert each.operators == len(operators) and each.taken + len(each.outside) == each.operators
        assert sum(each.inside.values()) == each.taken
        told = inspect(folder / f"{name}_{chip}.tflite").compiled
        assert (told.chip, told.taken, told.inside, told.parts) == (chip, each.taken, each.inside, each.parts)
        assert each.taken > 0 and "compiled here, not run" in each.line()
        assert (folder / f"{name}_{chip}.tflite").read_bytes() == each.content != content
        assert list(read_metadata(folder / f"{name}_{chip}.tflite").labels) == manifest["labels"]
    report = json.loads((folder / "report.json").read_text())
    assert [each["chip"] for each in report["chips"]] == ["SM8750", "SM8550"] and report["ran"] is False
    pack = folder / "ai_pack" / "src" / "main" / "assets"
    assert (pack / "model#group_other" / "model.tflite").read_bytes() == content
    assert (pack / "model#group_Qualcomm_SM8750" / "model.tflite").read_bytes() == compiled[0].content
    assert "SM8550" in (folder / "device_targeting_configuration.xml").read_text()
    assert (folder / project_folder.LIST).is_file()
    again = compiler.compile_for(content, ["SM8750"])[0]
    assert again[0].content == compiled[0].content
