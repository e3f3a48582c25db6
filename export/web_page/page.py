"""A folder with a web page that runs a deployed file in the browser, with LiteRT.js beside it.

Any web server serves the folder; the page asks nothing of any other place.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import project_folder
from mobilenets_tf.export.page import android
from mobilenets_tf.export.web_page import litert_js
from mobilenets_tf.files import to_json
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.progress import printable
from mobilenets_tf.quantize.schemes import Scheme

_STATIC = ("input.js", "answers.js", "page.js")
_FACTS = ("task", "form", "file", "height", "width", "channels", "mean", "std", "classes", "cut", "single", "rows",
          "columns", "scales", "overlap")  # fmt: skip


def check(scheme: Scheme, input_form: str) -> None:
    """Refuse, before any work, a file that LiteRT.js cannot feed, and a machine without LiteRT.js or npm.

    Raises:
        RequestError: the file's inputs or outputs would be int8; or as ``litert_js.check``.
    """
    if scheme.io == "int8" and input_form != "uint8":
        raise RequestError(
            "--web-page (web_page=): LiteRT.js takes and gives uint8 and float32, and an int8 file has int8 ends. Add "
            "--input uint8 (input='uint8'), or take the scheme int8_float_io."
        )
    litert_js.check()


def write(
    folder: Path, file: Path, manifest: dict, labels: Sequence[str], request: Mapping, overwrite: bool = False
) -> None:
    """Write the page's folder, whole or not at all.

    Args:
        file: the deployed ``.tflite`` file. manifest: as ``deploy`` wrote it beside the file.
        labels: names of the classes; may be empty.
        request, overwrite: as for ``project_folder.check``.

    Raises:
        RequestError: the folder cannot be written, or LiteRT.js cannot be had.
    """
    contents = files_of(file.name, file.read_bytes(), manifest, labels)
    project_folder.write(folder, {**contents, **litert_js.files()}, request, overwrite)


def files_of(file_name: str, content: bytes, manifest: dict, labels: Sequence[str]) -> dict[str, str | bytes]:
    """Return the page's files without LiteRT.js: path -> content."""
    folder = Path(__file__).parent / "files"
    texts = {name: (folder / name).read_text("utf-8") for name in (*_STATIC, "index.html")}
    shown = {
        "name": file_name.removesuffix(".tflite"),
        "headline": " ".join([manifest["badge"]["headline"], *manifest["badge"]["remarks"]]),
        "file": file_name,
    }
    page = Template(texts["index.html"])
    texts["index.html"] = page.substitute({key: escape(printable(text)) for key, text in shown.items()})
    return {**texts, "facts.json": to_json(facts_of(file_name, content, manifest, labels)), file_name: content}


def facts_of(file_name: str, content: bytes, manifest: dict, labels: Sequence[str]) -> dict:
    """Return what the page's code reads of a file: plain data."""
    facts, preprocessing = android.facts(file_name, manifest, bool(labels)), Preprocessing.of(manifest)
    grids = (manifest.get("anchors") or {}).get("grids", ()) if facts["form"] == "raw" else ()
    geometry = {
        "crop": preprocessing.crop,
        "resize": preprocessing.resize,
        "interpolation": preprocessing.interpolation,
    }
    ends = {"input": _end(facts["input"]), "outputs": list(map(_end, facts["outputs"]))}
    own = {"labels": list(labels), "anchors": ssd_anchors(grids).tolist() if grids else []}
    own["shares"] = android.gives_shares(content, facts["cut"])
    return {**{name: facts[name] for name in _FACTS}, **geometry, **ends, **own}


def _end(tensor: Mapping) -> dict:
    return {key: tensor[key] for key in ("name", "dtype", "shape", "scale", "zero_point")}
