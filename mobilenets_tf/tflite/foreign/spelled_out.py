"""Recognise operations that a converter has spelled out in several ops, and write them with fewer.

PyTorch's padding before a convolution, hard-swish, quotients and the layer normalisations of several frameworks. What
these functions write is what ``conversion`` writes of Keras' layers, so that ``lean``, the integer forms and the float
islands find it.
"""

from collections.abc import Callable, Iterator

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

_NONE = schema.ActivationFunctionType.NONE
_RECTIFIED = {schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6}
_LOWEST = -1e9  # below all values of a network, and finite, so that a range can be observed


def join_padding(tree: schema.ModelT) -> None:
    """Let a convolution or a pooling pad by itself, where a PAD before it adds what "SAME" would add.

    A border of minus infinity before a pooling, as PyTorch has it, becomes zeros where no value is negative; elsewhere
    it becomes a large finite number.
    """
    graph = flatbuffer.Graph(tree)
    for operator in list(graph.operators):
        op, pad = graph.name(operator), graph.writer.get(operator.inputs[0]) if operator.inputs else None
        if op not in ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D") or pad is None:
            continue
        pools = op == "MAX_POOL_2D"
        border = _border(graph, pad)
        if border is None or operator.builtinOptions.padding != schema.Padding.VALID:
            continue
        source, (sizes, value) = pad.inputs[0], border
        if not (value <= _LOWEST if pools else value == 0):
            continue
        if _is_same(graph, operator, source, sizes):
            operator.inputs = [source, *operator.inputs[1:]]
            operator.builtinOptions.padding = schema.Padding.SAME
        elif pools and _is_rectified(graph, source):
            (out,) = pad.outputs
            others = [reader for reader in graph.readers[out] if graph.name(reader) != "MAX_POOL_2D"]
            if not others and not graph.is_output(out):
                place = next(i for i, each in enumerate(graph.operators) if each is pad)
                graph.operators[place] = flatbuffer.make_operator(
                    tree, "PAD", list(pad.inputs[:2]), [out], schema.PadOptionsT()
                )
                graph = flatbuffer.Graph(tree)
        elif pools:
            flatbuffer.replace_constant(tree, pad, 2, np.full_like(graph.constant(pad.inputs[2]), _LOWEST))
    flatbuffer.drop_unneeded(tree)


def _border(graph: flatbuffer.Graph, pad: schema.OperatorT) -> tuple[np.ndarray, float] | None:
    """Return the sizes (axes, 2) of the border that an operator adds, and the value in it; None for other operators."""
    op = graph.name(pad)
    if op not in ("PAD", "PADV2"):
        return None
    sizes = graph.integers(pad.inputs[1])
    value = np.zeros(1) if op == "PAD" else graph.constant(pad.inputs[2])
    if sizes is None or value is None or value.size != 1 or sizes.size != 8:
        return None
    return sizes.reshape(4, 2), float(value.ravel()[0])


def _is_same(graph: flatbuffer.Graph, operator: schema.OperatorT, source: int, sizes: np.ndarray) -> bool:
    options = operator.builtinOptions
    if graph.name(operator) == "MAX_POOL_2D":
        kernel, dilation = [options.filterHeight, options.filterWidth], (1, 1)
    else:
        kernel = list(graph.shape(operator.inputs[1])[1:3])
        dilation = (options.dilationHFactor, options.dilationWFactor)
    strides, shape = (options.strideH, options.strideW), graph.shape(source)
    if sizes[0].any() or sizes[3].any():
        return False
    for axis in (0, 1):
        side, step, reach = shape[axis + 1], strides[axis], (kernel[axis] - 1) * dilation[axis] + 1
        total = max((-(-side // step) - 1) * step + reach - side, 0)
        if sizes[axis + 1].tolist() != [total // 2, total - total // 2]:
            return False
    return True


def _is_rectified(graph: flatbuffer.Graph, index: int) -> bool:
    writer = graph.writer.get(index)
    if writer is None:
        return False
    fused = getattr(writer.builtinOptions, "fusedActivationFunction", _NONE)
    return graph.name(writer) in ("RELU", "RELU6", "LOGISTIC", "SOFTMAX") or fused in _RECTIFIED


def plain_arithmetic(tree: schema.ModelT) -> None:
    """Write quotients as products and differences from constants as sums, where one value is known; a quotient by a
    square root as a product with RSQRT; a power of two as a product."""
    graph = flatbuffer.Graph(tree)
    for operator in list(graph.operators):
        op = graph.name(operator)
        if op == "DIV":
            root = graph.writer.get(operator.inputs[1])
            if graph.constant(operator.inputs[1]) is not None:
                new = _with_constant(graph, operator, "MUL", schema.MulOptionsT, lambda values: 1 / values)
            elif root is not None and graph.name(root) == "SQRT":
                name, shape = graph.tensors[root.outputs[0]].name.decode(), graph.shape(root.outputs[0])
                inverse = flatbuffer.add_tensor(tree, f"{name}/inverse", shape)
                first = flatbuffer.make_operator(tree, "RSQRT", [root.inputs[0]], [inverse])
                at = next(i for i, each in enumerate(tree.subgraphs[0].operators) if each is root)
                tree.subgraphs[0].operators.insert(at, first)
                new = _with_inputs(graph, operator, "MUL", schema.MulOptionsT, [operator.inputs[0], inverse])
            else:
                continue
        elif op == "SUB" and graph.constant(operator.inputs[1]) is not None:
            new = _with_constant(graph, operator, "ADD", schema.AddOptionsT, lambda values: -values)
        elif op == "POW" and _number(graph, operator.inputs[1]) == 2:
            new = _with_inputs(graph, operator, "MUL", schema.MulOptionsT, [operator.inputs[0]] * 2)
        else:
            continue
        operators = tree.subgraphs[0].operators
        operators[next(i for i, each in enumerate(operators) if each is operator)] = new
        graph = flatbuffer.Graph(tree)
    flatbuffer.drop_unneeded(tree)


def _with_constant(
    graph: flatbuffer.Graph, operator: schema.OperatorT, name: str, options, change: Callable[[np.ndarray], np.ndarray]
) -> schema.OperatorT:
    values, label = graph.constant(operator.inputs[1]), graph.tensors[operator.inputs[1]].name.decode()
    constant = flatbuffer.add_constant(graph.model, label, change(np.asarray(values, np.float64)))
    return _with_inputs(graph, operator, name, options, [operator.inputs[0], constant])


def _with_inputs(
    graph: flatbuffer.Graph, operator: schema.OperatorT, name: str, options, inputs: list[int]
) -> schema.OperatorT:
    options = options()
    if hasattr(options, "fusedActivationFunction"):
        options.fusedActivationFunction = getattr(operator.builtinOptions, "fusedActivationFunction", _NONE)
    return flatbuffer.make_operator(graph.model, name, inputs, list(operator.outputs), options)


def _number(graph: flatbuffer.Graph, index: int) -> float | None:
    values = graph.constant(index)
    return float(values.ravel()[0]) if values is not None and values.size == 1 else None


def _other(graph: flatbuffer.Graph, operator: schema.OperatorT, number: float) -> int | None:
    """Return the input of an operator of two inputs beside the constant ``number``; None if the constant is another."""
    for index, other in (operator.inputs, reversed(operator.inputs)):
        value = _number(graph, other)
        if value is not None and np.isclose(value, number, rtol=1e-6):
            return index
    return None


def hard_swish(tree: schema.ModelT) -> None:
    """Write x * relu6(x + 3) / 6, in any order of its products, as one HARD_SWISH. Run ``plain_arithmetic`` before."""
    graph = flatbuffer.Graph(tree)
    for place, operator in enumerate(list(graph.operators)):
        if graph.name(operator) == "MUL" and (source := _swished(graph, operator)) is not None:
            graph.operators[place] = flatbuffer.make_operator(
                tree, "HARD_SWISH", [source], list(operator.outputs), schema.HardSwishOptionsT()
            )
    flatbuffer.drop_unneeded(tree)


def _swished(graph: flatbuffer.Graph, last: schema.OperatorT) -> int | None:
    """Return x, where an operator computes the hard-swish of x."""
    if last.builtinOptions.fusedActivationFunction:
        return None
    product = _other(graph, last, 1 / 6)
    if product is not None:  # (x * gate) / 6
        writer = graph.writer.get(product)
        pairs = [writer.inputs, writer.inputs[::-1]] if writer is not None and _is_product(graph, writer) else []
        return next((x for x, gate in pairs if _gated(graph, gate) == x), None)
    for x, share in (last.inputs, last.inputs[::-1]):  # x * (gate / 6)
        writer = graph.writer.get(share)
        gate = _other(graph, writer, 1 / 6) if writer is not None and _is_product(graph, writer) else None
        if gate is not None and _gated(graph, gate) == x:
            return x
    return None


def _is_product(graph: flatbuffer.Graph, operator: schema.OperatorT) -> bool:
    return graph.name(operator) == "MUL" and not operator.builtinOptions.fusedActivationFunction


def _gated(graph: flatbuffer.Graph, index: int) -> int | None:
    """Return x, where a tensor is relu6(x + 3)."""
    writer = graph.writer.get(index)
    fused = schema.ActivationFunctionType.RELU6
    if writer is not None and graph.name(writer) == "RELU6":
        writer, fused = graph.writer.get(writer.inputs[0]), _NONE
    if writer is None or graph.name(writer) != "ADD" or writer.builtinOptions.fusedActivationFunction != fused:
        return None
    return _other(graph, writer, 3)


def layer_norms(tree: schema.ModelT) -> None:
    """Write x * s + (beta - mean * s) with s = rsqrt(variance + e) * gamma as (x - mean) * rsqrt(...) * gamma + beta.

    Gamma and beta then come last, where ``lean.fold_affines`` folds both into the next weights. Keras and TensorFlow
    spell a normalisation in the first way, for the kernels of batch normalisation.
    """
    graph = flatbuffer.Graph(tree)
    for operator in list(graph.operators):
        found = _spelled_norm(graph, operator)
        if found is None:
            continue
        x, mean, root, gamma, beta = found
        (out,) = operator.outputs
        name, shape = graph.tensors[out].name.decode(), graph.shape(out)
        last, steps = x, []
        parts = (
            ("SUB", mean, schema.SubOptionsT), ("MUL", root, schema.MulOptionsT),
            ("MUL", gamma, schema.MulOptionsT), ("ADD", beta, schema.AddOptionsT),
        )  # fmt: skip
        for op, other, options in parts:
            if other is not None:
                result = flatbuffer.add_tensor(tree, f"{name}/{op.lower()}", shape)
                steps.append(flatbuffer.make_operator(tree, op, [last, other], [result], options()))
                last = result
        steps[-1].outputs = [out]
        steps[-1].builtinOptions.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
        place = next(i for i, each in enumerate(graph.operators) if each is operator)
        graph.operators[place : place + 1] = steps
        graph = flatbuffer.Graph(tree)
    flatbuffer.drop_unneeded(tree)


def _spelled_norm(
    graph: flatbuffer.Graph, last: schema.OperatorT
) -> tuple[int, int, int, int | None, int | None] | None:
    """Return x, the mean, the inverse root, gamma and beta (None without one) of a normalisation that ends here."""
    if graph.name(last) != "ADD":
        return None
    for scaled, rest in (last.inputs, last.inputs[::-1]):
        product = graph.writer.get(scaled)
        if product is None or not _is_product(graph, product):
            continue
        for mean, scale, beta in _shifts(graph, rest):
            x = next((a for a, b in (product.inputs, product.inputs[::-1]) if b == scale), -1)
            writer, root = graph.writer.get(mean), _root(graph, scale)
            if root and writer is not None and graph.name(writer) == "MEAN" and writer.inputs[0] == x:
                return x, mean, root[0], root[1], beta
    return None


def _shifts(graph: flatbuffer.Graph, index: int) -> Iterator[tuple[int, int, int | None]]:
    """Yield (mean, scale, beta) of which a tensor may be beta - mean * scale; a beta that is None is zero."""
    writer = graph.writer.get(index)
    if writer is None:
        return
    yield from ((mean, scale, None) for mean, scale in _negative_products(graph, index))
    if graph.name(writer) == "SUB" and graph.constant(writer.inputs[0]) is not None:
        beta, shift = writer.inputs
        product = graph.writer.get(shift)
        if product is not None and _is_product(graph, product):
            yield from ((mean, scale, beta) for mean, scale in (product.inputs, product.inputs[::-1]))
    if graph.name(writer) == "ADD":
        for shift, beta in (writer.inputs, writer.inputs[::-1]):
            if graph.constant(beta) is not None:
                yield from ((mean, scale, beta) for mean, scale in _negative_products(graph, shift))


def _negative_products(graph: flatbuffer.Graph, index: int) -> Iterator[tuple[int, int]]:
    """Yield (mean, scale) of which a tensor is the negative product, as Keras writes it."""
    product = graph.writer.get(index)
    if product is not None and _is_product(graph, product):
        for negative, scale in (product.inputs, product.inputs[::-1]):
            writer = graph.writer.get(negative)
            if writer is not None and graph.name(writer) == "NEG":
                yield writer.inputs[0], scale


def _root(graph: flatbuffer.Graph, index: int) -> tuple[int, int | None] | None:
    """Return the inverse root and gamma of which a scale is the product."""
    writer = graph.writer.get(index)
    if writer is None:
        return None
    if graph.name(writer) == "RSQRT":
        return index, None
    if _is_product(graph, writer):
        for root, gamma in (writer.inputs, writer.inputs[::-1]):
            inner = graph.writer.get(root)
            if graph.constant(gamma) is not None and inner is not None and graph.name(inner) == "RSQRT":
                return root, gamma
    return None
