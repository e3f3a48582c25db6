"""Post-training quantisation: a float TFLite model and calibration data in, a quantised TFLite model out.

integer forms -> equalise the channels -> observe the activations -> correct the biases -> choose the ranges -> let the
converter's quantiser write the integers, but for islands that stay float.
The converter quantises; which ranges and weights it quantises is decided here, because that is where the accuracy goes.
"""

import itertools

import numpy as np

from mobilenets_tf import flatbuffer
from mobilenets_tf.errors import ConversionError
from mobilenets_tf.progress import Report, silent
from mobilenets_tf.quantize import bias_correction, equalize, ranges, schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.float_islands import float_islands
from mobilenets_tf.quantize.integer_forms import integer_forms
from mobilenets_tf.quantize.schemes import Scheme
from mobilenets_tf.quantize.statistics import Statistics, observe
from mobilenets_tf.runtime import Runner
from mobilenets_tf.worker import Worker

# Ops whose output has a scale fixed by the runtime; what goes into them decides the answer.
_FIXED_OUTPUT = {"SOFTMAX", "LOGISTIC", "TANH", "LOG_SOFTMAX"}


def quantize_flatbuffer(
    model: bytes, scheme, calibration: Calibration, worker: Worker, report: Report = silent
) -> bytes:
    """Quantise a float32 TFLite model.

    Args:
        model: the float file's content, every shape static.
        scheme: a calibrated scheme ("int8", "int8_float_io", "int16x8") or its name.
        calibration: the samples to choose ranges from.
        worker: where the converter's quantiser runs.

    Returns:
        The quantised file's content, its signature as in the float file.

    Raises:
        RequestError: calibration data that cannot be used, or activations that are not finite.
        ConversionError: an op that the converter cannot quantise to this scheme.
    """
    scheme = schemes.get(scheme)
    model = integer_forms(model)
    tree = flatbuffer.read(model)
    graph = tree.subgraphs[0]
    if scheme.activations == "int16" and float_islands(tree):
        raise ConversionError(
            f"{scheme.name} is not for models with attention or normalisation layers: their ops have no 16-bit "
            "kernels. Use int8, which leaves them in float."
        )
    shapes = {graph.tensors[i].name.decode(): tuple(map(int, graph.tensors[i].shape)) for i in graph.inputs}
    batches = calibration.batches(shapes, report)
    first = list(itertools.islice(batches, equalize.SAMPLES))
    model = equalize.equalize(model, first)
    statistics = observe(model, itertools.chain(first, batches))
    if calibration.value_range:
        # What pixels can be is known better than what these pixels were.
        for index in map(int, graph.inputs):
            if index in statistics:  # an integer input has no range to choose
                statistics[index].low, statistics[index].high = calibration.value_range
    corrected = flatbuffer.read(bias_correction.correct_biases(model, statistics))
    islands = float_islands(corrected) if scheme.activations == "int8" else []
    inner = _inner_tensors(corrected, islands)
    for index, (low, high) in choose_ranges(tree, statistics, scheme).items():
        if index not in inner:
            flatbuffer.set_range(corrected.subgraphs[0].tensors[index], low, high)
    report("quantising", 0, 1)
    tensors = corrected.subgraphs[0].tensors
    keep_float = [tensors[out].name.decode() for operator in islands for out in operator.outputs]
    try:
        quantised = flatbuffer.read(worker.call(_write_integers, flatbuffer.write(corrected), scheme, keep_float))
    except RuntimeError as error:  # WorkerError too
        reason = (str(error).strip().splitlines() or ["it gives no reason"])[0]
        raise ConversionError(f"The converter cannot quantise this model to {scheme.name}: {reason}") from error
    _settle_order(quantised)
    flatbuffer.copy_signature(tree, quantised)
    content = flatbuffer.write(quantised)
    try:
        Runner(content).invoke(*first[0])
    except RuntimeError as error:  # the quantiser writes some ops that there is no kernel for
        raise ConversionError(f"This model cannot run as {scheme.name}: {str(error).splitlines()[0]}") from error
    report("quantising", 1, 1)
    return content


def _settle_order(tree) -> None:
    """Order neighbouring DEQUANTIZE ops by what they read: the quantiser leaves their order, and outputs, to chance."""
    graph = tree.subgraphs[0]
    for kind, run in itertools.groupby(graph.operators, lambda operator: flatbuffer.operator_name(tree, operator)):
        run = list(run)
        if kind != "DEQUANTIZE" or len(run) == 1:
            continue
        ordered = sorted(run, key=lambda operator: int(operator.inputs[0]))
        places = sorted(int(operator.outputs[0]) for operator in run)
        # The names and (empty) buffers stay at their places; what the tensors are moves with the ops.
        labels = sorted((graph.tensors[place].name, graph.tensors[place].buffer) for place in places)
        tensors = [graph.tensors[operator.outputs[0]] for operator in ordered]
        moved = {int(operator.outputs[0]): place for operator, place in zip(ordered, places, strict=True)}
        for place, tensor, label in zip(places, tensors, labels, strict=True):
            graph.tensors[place] = tensor
            tensor.name, tensor.buffer = label
        for operator in graph.operators:
            operator.inputs = [moved.get(int(index), int(index)) for index in operator.inputs]
            operator.outputs = [moved.get(int(index), int(index)) for index in operator.outputs]
        graph.outputs = [moved.get(int(index), int(index)) for index in graph.outputs]
        start = next(i for i, operator in enumerate(graph.operators) if operator is run[0])
        graph.operators[start : start + len(run)] = ordered


def _inner_tensors(tree, islands: list) -> set[int]:
    """What float ops write for float ops alone: no range, so no integers in between."""
    graph, members = flatbuffer.Graph(tree), {id(operator) for operator in islands}
    written = {int(out) for operator in islands for out in operator.outputs}
    return {index for index in written if all(id(reader) in members for reader in graph.readers[index])}


def choose_ranges(tree, statistics: dict[int, Statistics], scheme: Scheme) -> dict[int, tuple[float, float]]:
    """The range of each observed tensor.

    Eight bits: least mean-square error, but everything that was seen for the model's inputs and outputs and for what
    a final softmax reads: clipping the largest logits makes classes tie. Sixteen bits: nothing needs clipping.
    """
    if scheme.activations == "int16":
        return {index: ranges.symmetric(found) for index, found in statistics.items()}
    unclipped = _ends(tree)
    chosen = {
        index: ranges.min_max(found) if index in unclipped else ranges.mean_square_error(found)
        for index, found in statistics.items()
    }
    _fit_sums(tree, chosen)
    return chosen


def _fit_sums(tree, chosen: dict[int, tuple[float, float]]) -> None:
    """Widen ranges where the terms and the result of a sum are of very different size, as in untrained networks.

    XNNPACK adds 8-bit numbers whose scales are between 2^-10 and 2^8 of the result's; beyond, the op falls out of the
    accelerated graph, and far beyond LiteRT's own kernel aborts the process.
    """
    graph = flatbuffer.Graph(tree)
    # From the end: what is widened for the sums that read a tensor is then seen by the sum that writes it.
    for operator in reversed(graph.graph.operators):
        if graph.name(operator) not in ("ADD", "SUB"):
            continue
        (out,) = map(int, operator.outputs)
        for index in (index for index in map(int, operator.inputs) if index in chosen):
            width, result = (high - low for low, high in (chosen[index], chosen[out]))
            for tensor, factor in ((index, result / width / 1000), (out, width / result / 250)):
                if factor > 1:
                    chosen[tensor] = tuple(factor * end for end in chosen[tensor])


def _ends(tree) -> set[int]:
    graph = tree.subgraphs[0]
    ends = {int(index) for index in [*graph.inputs, *graph.outputs]}
    for operator in graph.operators:
        if flatbuffer.operator_name(tree, operator) in _FIXED_OUTPUT and ends & set(map(int, operator.outputs)):
            ends |= set(map(int, operator.inputs))
    return ends


def _write_integers(model: bytes, scheme: Scheme, keep_float: list[str]) -> bytes:
    """Runs in the worker: the converter's quantisers, on a float model whose tensors carry their ranges.

    keep_float: names of the tensors whose ops are not to be quantised.
    """
    import tensorflow as tf

    io = tf.as_dtype(scheme.io)
    if scheme.activations == "int8":
        from tensorflow.lite.python.convert import mlir_quantize

        return mlir_quantize(model, input_data_type=io, output_data_type=io, denylisted_nodes=keep_float or None)
    # The newer quantiser writes 16-bit zero points that the kernels refuse; the older one knows 16 bits, and takes the
    # ranges from the tensors when it is fed no data.
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    allow_float, per_tensor, per_tensor_dense = False, False, False
    wrapper = Calibrator(model)._calibrator
    numbers = [np.dtype(name).num for name in (scheme.io, scheme.io, scheme.activations, "int64")]
    return wrapper.QuantizeModel(
        numbers[0], numbers[1], allow_float, numbers[2], numbers[3], per_tensor, per_tensor_dense
    )
