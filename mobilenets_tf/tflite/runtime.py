"""Run a TFLite file as the phone would, with LiteRT."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer


class Runner:
    """A loaded TFLite model that takes and gives float arrays, whatever the file's own types are.

    Quantised inputs are quantised with the file's scale and zero point, but for arrays that have the input's type
    already; quantised outputs are given back as real values.

    Args:
        model: the file's path or content.
        threads: how many LiteRT uses.
        trusted: leave out the check for damage, for content that was just made here.

    Raises:
        RequestError: no such file, or not a TFLite file that LiteRT can run.
    """

    def __init__(self, model, threads: int = 2, trusted: bool = False):
        from ai_edge_litert.interpreter import Interpreter

        label = "The model"
        if not isinstance(model, bytes):
            label = str(model)
            if not Path(model).is_file():
                raise RequestError(f"No such TFLite file: {model}")
            model = Path(model).read_bytes()
        try:
            if not trusted:
                flatbuffer.read(model)
            self._interpreter = Interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RequestError, ValueError, RuntimeError) as error:
            raise RequestError(f"{label} cannot be run: {str(error).splitlines()[0]}") from error
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()

    @property
    def inputs(self) -> list[dict]:
        """LiteRT's details of each input: name, shape, dtype, quantization."""
        return self._inputs

    @property
    def outputs(self) -> list[dict]:
        """LiteRT's details of each output."""
        return self._outputs

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """One array an input, of the input's shape with or without the leading 1 -> one float array an output.

        Raises:
            RequestError: a shape that the file does not take.
        """
        self.invoke(*arrays)
        return [_dequantise(self._interpreter.get_tensor(o["index"]), o) for o in self._outputs]

    def invoke(self, *arrays: np.ndarray) -> None:
        """Run without reading the outputs; ``raw`` then shows any tensor.

        Raises:
            RequestError: a shape that the file does not take.
        """
        for details, array in zip(self._inputs, arrays, strict=True):
            shape = tuple(details["shape"].tolist())
            array = np.asarray(array)
            if array.shape != shape and (1, *array.shape) != shape:
                raise RequestError(f"Input {details['name']!r} takes {shape}; received {array.shape}.")
            self._interpreter.set_tensor(details["index"], _quantise(array.reshape(shape), details))
        self._interpreter.invoke()

    def raw(self, index: int) -> np.ndarray:
        """A view of a tensor's memory; valid until the next call, and not to be kept."""
        return self._interpreter.tensor(index)()

    def execution_plan(self) -> dict[str, int]:
        """How often each op runs; every "DELEGATE" is one partition of the graph that XNNPACK took over."""
        return execution_plan(self._interpreter)

    def first_outputs(self, samples: Iterable) -> Iterator[np.ndarray]:
        """The first output for each sample, without its batch axis."""
        for sample in samples:
            yield self(sample)[0][0]


def execution_plan(interpreter) -> dict[str, int]:
    """See ``Runner.execution_plan``."""
    # LiteRT lists the ops that a delegate took over as well, ahead of the delegate. So the last node listed for a
    # tensor is the one that computes it, and what runs is what can be reached from the outputs.
    writers = {int(tensor): node for node in interpreter._get_ops_details() for tensor in node["outputs"]}
    running, waiting = {}, [details["index"] for details in interpreter.get_output_details()]
    while waiting:
        node = writers.get(int(waiting.pop()))
        if node and node["index"] not in running:
            running[node["index"]] = node["op_name"]
            waiting += list(node["inputs"])
    return dict(Counter(running.values()))


def _quantise(array: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    dtype = np.dtype(details["dtype"])
    if not scale or array.dtype == dtype:
        return array.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(array / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantise(array: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    return array if not scale else (array.astype(np.float32) - zero_point) * np.float32(scale)
