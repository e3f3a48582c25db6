"""TFLite files of a few ops, made without a converter, for tests that need a file and not a network."""

from ai_edge_litert import schema_py_generated as schema

from mobilenets_tf.tflite import flatbuffer


def additions(count: int = 1, last: str | None = "LOG_SOFTMAX", shape=(1, 4, 4, 3), kind: str = "FLOAT32") -> bytes:
    """x + x + ... (``count`` times), and behind that an op that XNNPACK does not have, unless ``last`` is None.

    kind: the tensors' type; those of INT8 get a scale of 0.5 and the zero point 3.
    """
    model = schema.ModelT()
    model.version, model.description = 3, b"test"
    model.operatorCodes, model.buffers = [], [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]
    tensors = [flatbuffer.add_tensor(model, f"t{place}", shape) for place in range(count + 1 + (last is not None))]
    for index in tensors:
        graph.tensors[index].type = getattr(schema.TensorType, kind)
        if kind == "INT8":
            graph.tensors[index].quantization = quantization = schema.QuantizationParametersT()
            quantization.scale, quantization.zeroPoint = [0.5], [3]
    for place in range(count):
        operator = flatbuffer.make_operator(model, "ADD", [place, place], [place + 1], schema.AddOptionsT())
        graph.operators.append(operator)
    if last is not None:
        options = {"LOG_SOFTMAX": schema.LogSoftmaxOptionsT}[last]()
        graph.operators.append(flatbuffer.make_operator(model, last, [tensors[-2]], [tensors[-1]], options))
    graph.inputs, graph.outputs = [tensors[0]], [tensors[-1]]
    return flatbuffer.write(model)
