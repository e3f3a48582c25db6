"""The script that runs inside the emulator: it runs a TFLite file on arrays that arrive through a pipe.

The script needs only NumPy and ai_edge_litert, since the emulated Python has nothing else. ``emulator`` imports the two
functions that write and read arrays, so that both ends of the pipe use the same format.

Input: the file's content as a uint8 array, then the input arrays of each sample. Output: one line of JSON (the machine,
the numbers of inputs, outputs and XNNPACK's partitions), then the output arrays of each sample.
"""

import json
import math
import os
import signal
import sys
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np

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


def main() -> None:
    """Run samples until the other process closes the pipe."""
    sys.path.pop(0)  # this file's folder: its other files must not be imported by name
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # so that Ctrl-C ends native code too
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that native code prints must not get between the answers

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=read_array(questions).tobytes(), num_threads=1)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    about = {
        "machine": os.uname().machine,
        "capabilities": capabilities(),
        "partitions": sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details()),
        "inputs": len(inputs),
        "outputs": len(outputs),
    }
    answers.write(json.dumps(about).encode() + b"\n")
    answers.flush()
    while True:
        for details in inputs:
            try:
                array = read_array(questions)
            except EOFError:
                return
            interpreter.set_tensor(details["index"], array)
        interpreter.invoke()
        for details in outputs:
            write_array(answers, interpreter.get_tensor(details["index"]))


if __name__ == "__main__":
    main()
