"""Runs ``.tflite`` files with LiteRT.js in headless Chromium, on arrays; for ``targets.py``.

Needs Chromium with its chromedriver, selenium, and npm or LiteRT.js in the cache folder.
"""

import functools
import http.server
import tempfile
import threading
from pathlib import Path

import numpy as np
from selenium import webdriver

from mobilenets_tf.export.targets.host import HostRun
from mobilenets_tf.export.web_page import litert_js

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PAGE = """<!DOCTYPE html><link rel="icon" href="data:,">
<script type="importmap">{"imports": {"@litertjs/wasm-utils": "./runtime/wasm-utils.js"}}</script>
<script type="module">
import {loadAndCompile, loadLiteRt, Tensor} from './runtime/litert.js';
const keep = () => {};
self.Module = {print: keep, printErr: keep};
const loaded = loadLiteRt('./runtime/wasm/');
self.run = async (file, type, shape, samples) => {
  await loaded;
  const model = await loadAndCompile(file, {accelerator: 'wasm'});
  const results = [];
  for (const sample of samples) {
    const tensor = new Tensor(new self[type](sample), shape);
    const outputs = await model.run(tensor);
    results.push(await Promise.all(outputs.map(async output => [...await output.data()])));
    outputs.forEach(output => output.delete());
    tensor.delete();
  }
  model.delete();
  return results;
};
</script>"""
_TYPES = {"float32": "Float32Array", "uint8": "Uint8Array", "int32": "Int32Array"}


class Refused(Exception):
    """LiteRT.js does not run the file."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that prints nothing."""

    def log_message(self, *_):
        pass


class Browser:
    """A Chromium with a page that runs files. It ends with this process."""

    def __init__(self):
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)
        for name, data in litert_js.files().items():
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / name).write_bytes(data)
        (self._folder / "index.html").write_text(PAGE)
        handler = functools.partial(Quiet, directory=self._temporary.name)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = webdriver.ChromeOptions()
        for argument in ARGUMENTS:
            options.add_argument(argument)
        self._driver = webdriver.Chrome(options=options)
        self._driver.set_script_timeout(300)
        self._driver.get(f"http://127.0.0.1:{server.server_port}/index.html")

    def outputs(self, content: bytes, host: HostRun) -> list[list[np.ndarray]]:
        """Return the file's outputs for the inputs of the run on this machine.

        Raises:
            Refused: LiteRT.js does not take the types of the file's ends, or does not run the file.
        """
        kinds = {array.dtype.name for arrays in (*host.inputs, *host.outputs) for array in arrays}
        if not kinds <= set(_TYPES):
            raise Refused(f"LiteRT.js has no {', '.join(sorted(kinds - set(_TYPES)))} ends")
        (self._folder / "model.tflite").write_bytes(content)
        samples = [sample[0].ravel().tolist() for sample in host.inputs]
        first = host.inputs[0][0]
        found = self._driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "self.run(...[...arguments].slice(0, -1)).then(done, error => done(String(error)));",
            "model.tflite", _TYPES[first.dtype.name], list(first.shape), samples,
        )  # fmt: skip
        if isinstance(found, str):
            raise Refused(found.splitlines()[0][:80])
        return [
            [np.array(values, here.dtype).reshape(here.shape) for values, here in zip(given, expected, strict=True)]
            for given, expected in zip(found, host.outputs, strict=True)
        ]
