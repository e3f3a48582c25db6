"""Read the tensors of weight files of unknown origin without running code from them.

The format follows from the content of a file, not from its name. Neither torch nor code of the file is imported. What
is allocated is bounded by the size of the file.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.weights import state_dicts, torch_files
from mobilenets_tf.weights.hdf5 import Budget, array, open_hdf5, strings

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar", ".h5", ".hdf5")
_MOST_BYTES = 1 << 32  # the largest network here has 60 MB of weights; optimizers and averages take several times that


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one weight file. ``framework``, "torch" or "keras", tells the order of their axes."""

    path: Path
    framework: str
    tensors: dict[str, np.ndarray]


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a weight file.

    Args:
        path: a ``.safetensors``; a file of torch.save in either format, whatever its suffix (``.pth``, ``.pt``,
            ``.bin``, ``.ckpt``, ``.pkl``, ``.pth.tar``); or an ``.h5`` in the layout of Keras 2. A file of torch.save
            may hold a state dict, what a training script put around one, or a whole module.

    Raises:
        RequestError: the file has another format, cannot be read, is damaged or has no tensors, or its pickle calls
            anything that does not build a tensor.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise RequestError(f"{path} has {size / 1e9:.1f} GB; weight files of these networks have far less.")
        content = path.read_bytes()
        framework, tensors = _read(path, content)
    except RequestError as error:
        raise RequestError(_naming(path, error)) from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # a hostile file may make any parser raise anything
        kind = f"a {path.suffix}" if path.suffix in SUFFIXES else "a"
        raise RequestError(f"{path} is damaged or not {kind} weight file ({_first_line(error)}).") from error
    if not tensors:
        raise RequestError(f"{path} holds no tensors.")
    return Checkpoint(path, framework, tensors)


def _naming(path: Path, error: RequestError) -> str:
    return str(error) if str(error).startswith(str(path)) else f"{path}: {error}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _read(path: Path, content: bytes) -> tuple[str, dict[str, np.ndarray]]:
    if len(content) > 9 and content[8:9] == b"{" and struct.unpack_from("<Q", content)[0] <= len(content) - 8:
        from safetensors.numpy import load_file

        return "torch", state_dicts.without_wrappers(load_file(path))
    if content.startswith(b"PK\x03\x04"):
        return "torch", _torch(torch_files.read_zip(content))
    if content.startswith(b"\x80"):
        return "torch", _torch(torch_files.read_legacy(content))
    if content.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras", _keras(path)
    if path.suffix in SUFFIXES:
        raise RequestError(f"{path} is damaged or not a {path.suffix} weight file (of {len(content)} bytes).")
    raise RequestError(f"{path}: cannot read weights from {path.suffix!r} files; expected {', '.join(SUFFIXES)}.")


def _torch(loaded) -> dict[str, np.ndarray]:
    tensors = state_dicts.without_wrappers(state_dicts.of(loaded))
    return {name: tensor.array() for name, tensor in tensors.items()}


def _keras(path: Path) -> dict[str, np.ndarray]:
    """Read the layout of Keras 2: one group per layer, named in the ``layer_names`` attribute of the root."""
    tensors = {}
    budget = Budget(path, path)
    with open_hdf5(path, path) as file:
        root = file.get("model_weights", file)
        try:
            layers = strings(root, "layer_names")
        except KeyError:
            raise RequestError(
                f"{path} is not a Keras weight file of layers (it has no 'layer_names' attribute)."
            ) from None
        for layer in layers:
            for weight in strings(root[layer], "weight_names"):
                # "conv1/conv1/kernel:0" -> "conv1.kernel"
                parameter = weight.rsplit("/", 1)[-1].split(":")[0]
                tensors[f"{layer}.{parameter}"] = array(root[layer], weight, budget)
    return tensors
