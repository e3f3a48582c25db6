"""Run a TFLite file as the phone would, with LiteRT."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.worker import Worker, WorkerError

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter


class Runner:
    """A loaded TFLite model that takes and gives float arrays, whatever the file's own types are.

    Arrays are quantised with the input's scale and zero point, unless they have the input's type already; quantised
    outputs are returned as real values.

    Args:
        model: the file's path or content.
        threads: how many threads LiteRT uses.
        trusted: leave out the check for damage, for content that this process has just made.
        reference: run LiteRT's reference kernels, which are slow and written for clarity, instead of XNNPACK and the
            optimised kernels. TensorFlow Lite Micro computes the same integers.

    Raises:
        RequestError: there is no such file, or LiteRT cannot run the file.
    """

    def __init__(self, model: str | Path | bytes, threads: int = 2, trusted: bool = False, reference: bool = False):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        label, is_file = "The model", False
        if not isinstance(model, bytes):
            label, is_file = str(model), True
            if not Path(model).is_file():
                raise RequestError(f"No such TFLite file: {model}")
            model = Path(model).read_bytes()
        try:
            if not trusted:
                tree = flatbuffer.read(model)
                if is_file:  # what is made here has no loop that its model did not have
                    check_loops(tree, model)
            kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
            self._interpreter = Interpreter(
                model_content=model, num_threads=threads, experimental_op_resolver_type=kernels
            )
            self._interpreter.allocate_tensors()
        except (RequestError, ValueError, RuntimeError) as error:
            raise RequestError(f"{label} cannot be run: {first_line(error)}") from error
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

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """The shape of each input without its batch axis."""
        return [tuple(details["shape"][1:].tolist()) for details in self._inputs]

    @property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """The shape of each output without its batch axis."""
        return [tuple(details["shape"][1:].tolist()) for details in self._outputs]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Run the model.

        Args:
            arrays: one for each input, of the input's shape with or without the leading 1.

        Returns:
            One float32 array for each output.

        Raises:
            RequestError: an array has another shape.
        """
        self.invoke(*arrays)
        return [_dequantise(self._interpreter.get_tensor(o["index"]), o) for o in self._outputs]

    def invoke(self, *arrays: np.ndarray) -> None:
        """Run the model without reading the outputs; ``raw`` then gives any tensor.

        Args:
            arrays: as for a call.

        Raises:
            RequestError: an array has another shape or, for an input of whole numbers, fractions; or LiteRT cannot
                compute the outputs.
        """
        for details, array in zip(self._inputs, arrays, strict=True):
            shape = tuple(details["shape"].tolist())
            array = np.asarray(array)
            if array.shape != shape and (1, *array.shape) != shape:
                raise RequestError(f"Input {details['name']!r} takes {shape}; received {array.shape}.")
            self._interpreter.set_tensor(details["index"], quantised(array.reshape(shape), details))
        try:
            self._interpreter.invoke()
        except RuntimeError as error:  # what an operator cannot compute, such as a number that has no row in a table
            raise RequestError(
                f"LiteRT cannot compute the model's outputs of these inputs: {first_line(error)}{_limits(arrays, self)}"
            ) from error

    def raw(self, index: int) -> np.ndarray:
        """Give a view of a tensor's memory, which is valid only until the next call."""
        return self._interpreter.tensor(index)()

    def execution_plan(self) -> dict[str, int]:
        """Count how often each op runs; each "DELEGATE" is one part of the graph that XNNPACK took over."""
        return execution_plan(self._interpreter)

    def first_outputs(self, samples: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Give the first output for each sample, without the batch axis."""
        for sample in samples:
            yield self(sample)[0][0]


_LOOP_SECONDS = 60  # for one run of a file with loops


def check_loops(tree: flatbuffer.schema.ModelT, content: bytes) -> None:
    """Refuse a file from elsewhere whose loop does not end: the file is run once on zeros, in a child process.

    Args:
        tree, content: the file, read and as it is.

    Raises:
        RequestError: the run has not ended after a minute.
    """
    if "WHILE" not in flatbuffer.operator_counts(tree):
        return
    with Worker(preload="", always=True) as child:
        child.call(_import_litert)  # which takes seconds on a busy machine
        try:
            child.call(_run_on_zeros, content, seconds=_LOOP_SECONDS)
        except WorkerError as error:
            raise RequestError(
                f"a loop (the operator WHILE) has not ended after {_LOOP_SECONDS} s, on an input of zeros. Convert the "
                "model again with the loop unrolled."
            ) from error


def _import_litert() -> None:
    import ai_edge_litert.interpreter  # noqa: F401


def _run_on_zeros(content: bytes) -> None:
    """Run a file in this process, a child. A file that cannot be run has no loop that does not end."""
    from ai_edge_litert.interpreter import Interpreter

    with contextlib.suppress(ValueError, RuntimeError):
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        interpreter.invoke()


def describe_tensor(details: dict) -> dict:
    """Return one of ``Runner.inputs`` or ``Runner.outputs`` as plain data."""
    scale, zero_point = details["quantization"]
    return {
        "name": details["name"],
        "shape": [int(side) for side in details["shape"]],
        "dtype": np.dtype(details["dtype"]).name,
        "scale": float(scale),
        "zero_point": int(zero_point),
    }


def refused_without_delegates(content: bytes) -> str | None:
    """Return why LiteRT's own kernels refuse a file that they alone are to run, without XNNPACK; None if they run it.

    Args:
        content: of a file that is known to be sound.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        interpreter = Interpreter(
            model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        interpreter.allocate_tensors()
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        return first_line(error)
    return None


def execution_plan(interpreter: "Interpreter") -> dict[str, int]:
    """Count how often each op runs in an interpreter; see ``Runner.execution_plan``."""
    # LiteRT also lists the ops that a delegate took over, before the delegate. So the last node that is listed for a
    # tensor computes it, and the nodes that run are those on the way to the outputs.
    writers = {int(tensor): node for node in interpreter._get_ops_details() for tensor in node["outputs"]}
    running, waiting = {}, [details["index"] for details in interpreter.get_output_details()]
    while waiting:
        node = writers.get(int(waiting.pop()))
        if node and node["index"] not in running:
            running[node["index"]] = node["op_name"]
            waiting += list(node["inputs"])
    return dict(Counter(running.values()))


def _limits(arrays: Sequence[np.ndarray], runner: Runner) -> str:
    """Describe the values of the inputs that are whole numbers, in a sentence."""
    told = [
        f" {details['name']!r} has {np.min(array):g} to {np.max(array):g}."
        for details, array in zip(runner.inputs, arrays, strict=True)
        if np.dtype(details["dtype"]).kind in "iu" and not details["quantization"][0]
    ]
    return "." + "".join(told)


def in_type(array: np.ndarray, dtype: npt.DTypeLike, name: str) -> np.ndarray:
    """Return an array in the type of an input.

    Raises:
        RequestError: the input ``name`` takes whole numbers, and the array has fractions.
    """
    typed = array.astype(dtype, copy=False)
    if typed.dtype.kind in "iu" and not np.array_equal(typed, array):
        fraction = array[typed != array].flat[0]
        raise RequestError(f"Input {name!r} takes whole numbers ({typed.dtype}); received {fraction:g}.")
    return typed


def quantised(array: np.ndarray, details: dict) -> np.ndarray:
    """Turn real values into what a tensor stores. details: LiteRT's, of the tensor.

    Raises:
        RequestError: the tensor stores whole numbers, and the values have fractions.
    """
    scale, zero_point = details["quantization"]
    dtype = np.dtype(details["dtype"])
    if array.dtype == dtype or not scale:
        return in_type(array, dtype, details["name"])
    limits = np.iinfo(dtype)
    return np.clip(np.round(array / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantise(array: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    return array if not scale else (array.astype(np.float32) - zero_point) * np.float32(scale)
