"""The web page: its JavaScript computes what Python computes, and the page runs the file in a browser."""

import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.android_app.expected import drawn_photograph, expected
from mobilenets_tf.export.page import android
from mobilenets_tf.export.web_page import litert_js, page
from mobilenets_tf.quantize import schemes
from mobilenets_tf.tflite.runtime import Runner
from tests.support import colour_files
from tests.support.browser import BROWSER, DRIVER, started
from tests.support.deployed_files import CASES, VALUES, deployed

# Chromium's GPU in software.
SWIFTSHADER = (
    "--disable-gpu-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--use-gl=angle",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
)  # fmt: skip
# Reads the cases from standard input, and writes for each the resized pixels and what the outputs say.
SCRIPT = """
import {answers, real} from './answers.mjs';
import {input, levels, part} from './input.mjs';
let text = '';
for await (const chunk of process.stdin) text += chunk;
const {photo, cases} = JSON.parse(text);
const results = cases.map(({facts, outputs, threshold}) => {
  const values = outputs.map((stored, place) => real(stored, facts.outputs[place]));
  const found = answers(values, facts, part(photo, facts), {threshold});
  if (found.areas) found.areas.classes = [...found.areas.classes];
  return {levels: [...levels(photo, facts)], input: [...input(photo, facts)], found};
});
console.log(JSON.stringify(results));
"""


@pytest.fixture(scope="module")
def computed(made_once, tmp_path_factory):
    """Case -> what JavaScript makes of the photograph and of the file's outputs, and what Python made of them."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    folder = tmp_path_factory.mktemp("web_page")
    picture, cases, python = drawn_photograph(), [], {}
    for name in CASES:
        content, manifest = deployed(name)
        facts = android.facts(f"{name}.tflite", manifest, True)
        numbers, about = expected(content, manifest, facts)
        python[name] = numbers, facts
        outputs = [
            np.frombuffer(numbers[f"output{place}"], output["dtype"]).tolist()
            for place, output in enumerate(manifest["outputs"])
        ]
        given = page.facts_of(f"{name}.tflite", content, manifest, colour_files.LABELS)
        cases.append({"facts": given, "outputs": outputs, "threshold": about.get("threshold", 0.5)})
    height, width, _ = picture.shape
    rgba = np.dstack([picture, np.full((height, width), 255, np.uint8)])
    photo = {"width": width, "height": height, "data": rgba.ravel().tolist()}
    own = Path(page.__file__).parent / "files"
    for name in ("input", "answers"):
        (folder / f"{name}.mjs").write_text((own / f"{name}.js").read_text())
    (folder / "run.mjs").write_text(SCRIPT)
    done = subprocess.run(
        ["node", "run.mjs"],
        input=json.dumps({"photo": photo, "cases": cases}),
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return {name: (each, *python[name]) for name, each in zip(CASES, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_javascript_computes_what_python_computes(computed, name):
    javascript, numbers, facts = computed[name]
    assert javascript["levels"] == list(numbers["levels"])
    if facts["input"]["dtype"] != "int8":
        table = np.frombuffer(numbers["table"], facts["input"]["dtype"])
        assert javascript["input"] == table[list(numbers["levels"])].tolist()
    found = javascript["found"]
    if name in VALUES:
        values = np.frombuffer(numbers["output0"], facts["outputs"][0]["dtype"]).astype(np.float32)
        scale, zero_point = facts["outputs"][0]["scale"] or 1, facts["outputs"][0]["zero_point"]
        np.testing.assert_allclose(found["values"][0]["values"], (values - zero_point) * scale, rtol=1e-6)
    elif facts["task"] == "classify":
        wanted = np.frombuffer(numbers["answers"], np.float32).reshape(-1, 2)
        given = [[each["index"], each["score"]] for each in found["classes"]]
        np.testing.assert_allclose(given, wanted, rtol=1e-6)
    elif facts["task"] == "detect":
        wanted = np.frombuffer(numbers["answers"], np.float32).reshape(-1, 6)
        given = [
            [
                each["index"],
                each["score"],
                box["top"],
                box["left"],
                box["top"] + box["height"],
                box["left"] + box["width"],
            ]
            for each in found["objects"]
            for box in [each["box"]]
        ]
        given = np.array(sorted(given, key=lambda row: (-row[1], *row[:1], *row[2:])))
        np.testing.assert_allclose(given, wanted, atol=1e-2)
    else:
        assert found["areas"]["classes"] == np.frombuffer(numbers["answers"], np.int32).tolist()


def test_names_cannot_break_out_of_the_page():
    content, manifest = deployed("classify_keras")
    files = page.files_of("<script>$name\x1b.tflite", content, manifest, colour_files.LABELS)
    assert "<title>&lt;script&gt;$name\\x1b</title>" in files["index.html"] and "\x1b" not in files["index.html"]


def test_what_the_browser_cannot_run_is_refused_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setenv("MOBILENETS_TF_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RequestError, match="int8 file has int8 ends. Add --input uint8"):
        page.check(schemes.get("int8"), "normalised")
    with pytest.raises(RequestError, match="needs LiteRT.js, which npm fetches, and there is no npm"):
        page.check(schemes.get("int8"), "uint8")


def test_only_the_known_litert_js_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("MOBILENETS_TF_HOME", str(tmp_path / "cache"))
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\nwhile [ "$1" != --prefix ]; do shift; done\nd="$2/node_modules/@litertjs/core/dist"\n'
                   'mkdir -p "$d" && echo evil > "$d/index.js"\n')  # fmt: skip
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RequestError, match="npm gave another @litertjs/core/dist/index.js than that of version"):
        litert_js.files()
    npm.write_text("#!/bin/sh\necho 'npm error code E404' >&2; exit 1\n")
    with pytest.raises(RequestError, match="npm could not fetch LiteRT.js .*: npm error code E404"):
        litert_js.files()
    assert not litert_js.folder().exists()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder with the pages of some cases, and its address."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("served")
    for name in ("classify_crop", "detect_nms", "segment_mask"):
        content, manifest = deployed(name)
        file = folder / f"{name}.tflite"
        file.write_bytes(content)
        page.write(folder / name, file, manifest, colour_files.LABELS, {})
    Image.fromarray(drawn_photograph()).save(folder / "photo.png")
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that prints nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("profile"), ("--disable-gpu",), SWIFTSHADER) as driver:
        driver.set_script_timeout(120)
        yield driver


@pytest.mark.slow
@pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with its chromedriver on this machine")
@pytest.mark.parametrize("name", ["classify_crop", "detect_nms", "segment_mask"])
def test_the_page_runs_the_file_in_a_browser(served, browser, name):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    folder, address = served
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(f"{address}/{name}/index.html")
    chooser = browser.find_element(By.ID, "file")
    WebDriverWait(browser, 120).until(lambda _: chooser.is_enabled())
    chooser.send_keys(str(folder / "photo.png"))
    status = browser.find_element(By.ID, "status")
    WebDriverWait(browser, 120).until(lambda _: status.text.startswith("CPU: "))
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#answers tr")]
    # The same picture once more, for the outputs.
    shown = (
        "const done = arguments[0]; import('./page.js').then(async ({show}) => {"
        "const blob = await (await fetch('../photo.png')).blob();"
        "const {outputs} = await show(blob); done(outputs.map(each => [...each])); });"
    )
    outputs = {"CPU": browser.execute_async_script(shown)}
    if name == "classify_crop":
        browser.find_element(By.ID, "use_gpu").click()
        WebDriverWait(browser, 120).until(lambda _: status.text.startswith("GPU: "))
        outputs["GPU"] = browser.execute_async_script(shown)
    content, manifest = deployed(name)
    runner, preprocessing = Runner(content), Preprocessing.of(manifest)
    pixels = preprocessing.geometry(Image.fromarray(drawn_photograph()))
    wanted = runner(preprocessing.for_input(pixels, runner.inputs[0]["dtype"]))
    level = max(details["quantization"][0] for details in runner.outputs)
    for processor, given in outputs.items():
        for one, other in zip(given, wanted, strict=True):
            np.testing.assert_allclose(one, other.ravel(), atol=1e-5 + (processor == "GPU") * level)
    assert len(rows) >= 1 and any(label in rows[0] for label in (*colour_files.LABELS, "Nothing"))
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"]
    assert addresses and all(each.startswith((address, "data:", "blob:", "chrome:")) for each in addresses)
