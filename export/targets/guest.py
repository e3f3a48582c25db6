"""The script of a target's process: it runs a TFLite file on arrays that arrive through a pipe.

The script needs only NumPy and ai_edge_litert, since the emulated Python has nothing else. ``child`` imports the two
functions that write and read arrays, so that both ends of the pipe use the same format.

The script's argument is a JSON object. ``runtime`` "cpu": LiteRT's interpreter with XNNPACK, on one thread. "gpu":
LiteRT's CompiledModel with its GPU accelerator; ``half``: compute in half precision, as phones do, where the driver
can; ``memory``: a limit on the memory of the process, in bytes of address space.

Input: the file's content as a uint8 array, then the input arrays of each sample. Output: one line of JSON (facts of the
file and the target, among them the numbers of inputs and outputs), then the output arrays of each sample.
"""

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np

    Run = Callable[[list[np.ndarray]], list[np.ndarray]]

# Bytes that one array may have, so that a broken sender cannot make the receiver allocate all memory.
LARGEST_ARRAY = 1 << 30


def write_array(stream: BinaryIO, array: "np.ndarray") -> None:
    """Write one array to a pipe: a line with its dtype and shape, then its bytes."""
    stream.write(json.dumps([array.dtype.str, list(array.shape)]).encode() + b"\n" + array.tobytes())
    stream.flush()


def read_array(stream: BinaryIO) -> "np.ndarray":
    """Read the next array from a pipe.

    Raises:
        EOFError: the other process has closed the pipe.
        ValueError: the bytes are not an array of numbers.
    """
    import numpy as np

    line = stream.readline(1024)
    if not line:
        raise EOFError("the pipe is closed")
    try:
        dtype, shape = json.loads(line)
        dtype, shape = np.dtype(str(dtype)), tuple(shape)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"expected an array, received {line[:80]!r}") from error
    whole = all(isinstance(length, int) and length >= 0 for length in shape)
    size = dtype.itemsize * math.prod(shape) if whole else 0
    if dtype.kind not in "biuf" or not whole or size > LARGEST_ARRAY:
        raise ValueError(f"expected an array of numbers, received {dtype} of shape {shape}")
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("the last array is incomplete")
    return np.frombuffer(data, dtype).reshape(shape)


def capabilities() -> tuple[int, int]:
    """Return the two words of capability bits that Linux passes to each program: AT_HWCAP, AT_HWCAP2."""
    import ctypes

    library = ctypes.CDLL(None)
    library.getauxval.restype, library.getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return library.getauxval(16), library.getauxval(26)  # AT_HWCAP, AT_HWCAP2


def on_cpu(content: bytes, options: dict) -> tuple[dict, "Run"]:
    """Load a file into LiteRT's interpreter; return facts of it, and the function that runs it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def run(arrays):
        for details, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(details["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(details["index"]) for details in outputs]

    about = {
        "machine": os.uname().machine,
        "capabilities": capabilities(),
        "partitions": sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details()),
        "inputs": len(inputs),
        "outputs": len(outputs),
    }
    return about, run


def on_gpu(content: bytes, options: dict) -> tuple[dict, "Run"]:
    """Compile a file for LiteRT's GPU accelerator; return facts of it, and the function that runs it.

    The GPU alone compiles only files all of whose operators it takes; else the CPU computes the others.
    """
    import resource

    import numpy as np
    from ai_edge_litert.compiled_model import CompiledModel, GpuOptions, HardwareAccelerator, Options
    from ai_edge_litert.interpreter import Interpreter

    limit = options["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    interpreter = Interpreter(model_content=content)
    gpu = GpuOptions(enforce_f32=not options["half"])

    def compiled(accelerators):
        return CompiledModel.from_buffer(content, options=Options(accelerators, gpu_options=gpu))

    try:
        model = compiled(HardwareAccelerator.GPU)
        whole = model.is_fully_accelerated()
    except RuntimeError:
        model, whole = compiled(HardwareAccelerator.GPU | HardwareAccelerator.CPU), False
    (signature, *_) = model.get_signature_list()
    # The order of a signature need not be that of the file's graph, in which the arrays come through the pipe.
    keys_in = {each["index"]: key for key, each in model.get_input_tensor_details(signature).items()}
    keys_out = {each["index"]: key for key, each in model.get_output_tensor_details(signature).items()}
    given, wanted = interpreter.get_input_details(), interpreter.get_output_details()

    inputs = {key: model.create_input_buffer_by_name(signature, key) for key in keys_in.values()}
    outputs = {key: model.create_output_buffer_by_name(signature, key) for key in keys_out.values()}

    def run(arrays):
        for details, array in zip(given, arrays, strict=True):
            inputs[keys_in[details["index"]]].write(array)
        model.run_by_name(signature, inputs, outputs)
        return [
            outputs[keys_out[details["index"]]]
            .read(math.prod(map(int, details["shape"])), np.dtype(details["dtype"]))
            .reshape(details["shape"])
            for details in wanted
        ]

    return {"whole": whole, "inputs": len(given), "outputs": len(wanted)}, run


def main(options: dict) -> None:
    """Run samples until the other process closes the pipe."""
    sys.path.pop(0)  # this file's folder: its other files must not be imported by name
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # so that Ctrl-C ends native code too
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that native code prints must not get between the answers

    about, run = {"cpu": on_cpu, "gpu": on_gpu}[options["runtime"]](read_array(questions).tobytes(), options)
    answers.write(json.dumps(about).encode() + b"\n")
    answers.flush()
    while True:
        arrays = []
        for _ in range(about["inputs"]):
            try:
                arrays.append(read_array(questions))
            except EOFError:
                return
        for output in run(arrays):
            write_array(answers, output)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
