"""Small networks of three classes, red, green and blue, whose answers can be told by looking at the image: as TFLite
files of an op or two, made without a converter, and the same as Keras models."""

import json

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from PIL import Image

from mobilenets_tf.tflite import flatbuffer

SIZE, LABELS = 8, ["red", "green", "blue"]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
PREPROCESSING = {
    "size": SIZE, "resize": SIZE, "mean": [0.0] * 3, "std": [255.0] * 3, "crop": "stretch", "interpolation": "bilinear",
}  # fmt: skip
GRIDS = ((2, 2),)  # of the detector, with three anchors a place

# The detector's filters, each over a quarter of the image, as (height, width, colour, anchor, value).
_BOXES, _SCORES = np.zeros((4, 4, 3, 3, 4), np.float32), np.zeros((4, 4, 3, 3, 4), np.float32)
_SCORES[:, :, range(3), 0, range(1, 4)] = 1 / 16  # of each place's square anchor: the mean of each colour
_GROWTH = np.tile(np.float32([0, 0, 5 * np.log(5), 5 * np.log(5)]), 3)  # from the anchor's side, 0.1, to 0.5
_DARK = np.full(12, -0.1, np.float32)  # what comes over from the next quarter is no object


def classifier(shape=(SIZE, SIZE, 3)) -> bytes:
    """Scores (1, channels): the mean of each colour of an image of this shape, from 0 to 1."""
    model, image = _model(shape)
    axes = flatbuffer.add_constant(model, "axes", np.array([1, 2], np.int32))
    return _finished(model, {"scores": _add(model, "MEAN", [image, axes], (1, shape[-1]), schema.ReducerOptionsT())})


def segmenter() -> bytes:
    """Logits (1, 8, 8, 3): twice the colours."""
    model, image = _model()
    return _finished(model, {"logits": _add(model, "ADD", [image, image], (1, SIZE, SIZE, 3), schema.AddOptionsT())})


def detector() -> bytes:
    """Boxes (1, 12, 4) and scores (1, 12, 4): an object in each quarter of the image, its score the higher the brighter
    its colour."""
    model, image = _model()
    outputs = {}
    for name, filters, biases in (("boxes", _BOXES, _GROWTH), ("scores", _SCORES, _DARK)):
        filters = flatbuffer.add_constant(model, f"{name}/filters", filters.reshape(4, 4, 3, 12).transpose(3, 0, 1, 2))
        biases = flatbuffer.add_constant(model, f"{name}/biases", biases)
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.VALID, 4, 4
        places = _add(model, "CONV_2D", [image, filters, biases], (1, 2, 2, 12), options)
        shape = flatbuffer.add_constant(model, f"{name}/shape", np.array([1, 12, 4], np.int32))
        outputs[name] = _add(model, "RESHAPE", [places, shape], (1, 12, 4))
    return _finished(model, outputs)


def keras_segmenter():
    """``segmenter`` in Keras."""
    import keras

    image = keras.Input((SIZE, SIZE, 3))
    return keras.Model(image, keras.layers.Rescaling(2.0)(image))


def keras_detector():
    """``detector`` in Keras, its layers called as those of ``networks.heads.ssd`` are."""
    import keras
    from keras import layers

    image = keras.Input((SIZE, SIZE, 3))
    convolutions = [layers.Conv2D(12, 4, strides=4, name=f"ssd_level1_{part}") for part in ("boxes", "classifier")]
    outputs = [layers.Reshape((12, 4))(convolution(image)) for convolution in convolutions]
    convolutions[0].set_weights([_BOXES.reshape(4, 4, 3, 12), _GROWTH])
    convolutions[1].set_weights([_SCORES.reshape(4, 4, 3, 12), _DARK])
    return keras.Model(image, outputs)


def write(path, content, **manifest):
    """A file (its content, or a Keras model), and beside it a manifest unless nothing is in it; its path."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    if manifest:
        path.with_name(f"{path.name}.json").write_text(json.dumps(manifest))
    return path


def quarters(*names: str, size=(40, 24)):
    """A photograph of four colours: upper left, upper right, lower left, lower right."""
    few = np.array([COLOURS[name] for name in names], np.uint8).reshape(2, 2, 3)
    return Image.fromarray(few).resize(size, Image.Resampling.NEAREST)


def _model(shape=(SIZE, SIZE, 3)):
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]
    graph.inputs = [flatbuffer.add_tensor(model, "image", (1, *shape))]
    return model, graph.inputs[0]


def _add(model, name: str, inputs: list[int], shape, options=None) -> int:
    result = flatbuffer.add_tensor(model, f"{name}{len(model.subgraphs[0].tensors)}", shape)
    model.subgraphs[0].operators.append(flatbuffer.make_operator(model, name, inputs, [result], options))
    return result


def _finished(model, outputs: dict[str, int]) -> bytes:
    model.subgraphs[0].outputs = list(outputs.values())
    flatbuffer.set_signature(model, ["image"], list(outputs))
    return flatbuffer.write(model)
