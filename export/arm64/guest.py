"""What runs inside the emulator: a TFLite file on raw inputs, asked and answered through pipes.

Run as a script it needs NumPy and ai_edge_litert alone, since that is all the emulated Python has. ``arm64`` imports
the two functions that put arrays on a pipe, so that both ends speak the same.

In: the file's content as a uint8 array, then the arrays of one sample after the other. Out: one line of JSON (what this
machine is, how many outputs the file has), then the outputs of one sample after the other.
"""

import json
import math
import os
import signal
import sys

# Bytes that one array may have: what a broken other end claims is not allocated.
LARGEST_ARRAY = 1 << 30


def write_array(stream, array) -> None:
    """One array: a line with its dtype and shape, then its bytes."""
    stream.write(json.dumps([array.dtype.str, list(array.shape)]).encode() + b"\n" + array.tobytes())
    stream.flush()


def read_array(stream):
    """The next array of a pipe.

    Raises:
        EOFError: the other end is gone.
        ValueError: what came is no array of numbers.
    """
    import numpy as np

    line = stream.readline(1024)
    if not line:
        raise EOFError("nothing more came")
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
        raise EOFError("the last array is not whole")
    return np.frombuffer(data, dtype).reshape(shape)


def capabilities() -> tuple[int, int]:
    """The processor's two words of capability bits, as Linux tells a program when it starts."""
    import ctypes

    library = ctypes.CDLL(None)
    library.getauxval.restype, library.getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return library.getauxval(16), library.getauxval(26)  # AT_HWCAP, AT_HWCAP2


def main() -> None:
    """Answer until the other end closes the pipe."""
    sys.path.pop(0)  # this file's folder: its neighbours are no modules for anyone here
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends native code too
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever native code prints must not get between the answers

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
