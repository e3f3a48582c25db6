"""The files: builtin ops, static shapes, one signature, the model's own numbers, the same bytes every time."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import RequestError, export
from mobilenets_tf.conversion.convert import ConversionError, convert, freeze
from mobilenets_tf.export.tflite import convert_model, to_tflite
from mobilenets_tf.quantize import SCHEMES, Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker
from tests.conftest import photographs


def converted(model, scheme, worker, samples=None):
    scheme = SCHEMES[scheme]
    return convert_model(model, scheme, Calibration(samples) if scheme.calibrated else None, worker)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_file_is_lean(small_files, scheme):
    tree = flatbuffer.read(small_files[scheme].content)
    counts = flatbuffer.operator_counts(tree)
    extra = {
        "float16": {"DEQUANTIZE"},
        "int8_float_io": {"QUANTIZE", "DEQUANTIZE"},
        "int16x8": {"QUANTIZE", "DEQUANTIZE"},
    }
    network = {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED", "SOFTMAX"}
    assert set(counts) == network | extra.get(scheme, set())
    # No ADD, and no MUL at all, is left of a BatchNorm.
    assert (counts["CONV_2D"], counts["DEPTHWISE_CONV_2D"], counts["ADD"]) == (6, 2, 1)
    for tensor in tree.subgraphs[0].tensors:
        assert tensor.shapeSignature is None or -1 not in list(tensor.shapeSignature)
    (signature,) = tree.signatureDefs
    assert signature.signatureKey == b"serving_default"
    assert [entry.name for entry in signature.inputs] == [b"image"]
    assert [entry.name for entry in signature.outputs] == [b"predictions"]


@pytest.mark.slow
def test_a_deep_network_is_lean(mobilenet_file):
    """Seventeen blocks, ten of which have a residual."""
    counts = flatbuffer.operator_counts(flatbuffer.read(mobilenet_file))
    assert counts == {"CONV_2D": 35, "DEPTHWISE_CONV_2D": 17, "ADD": 10, "MEAN": 1, "FULLY_CONNECTED": 1, "SOFTMAX": 1}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_types_at_both_ends_and_inside(small_files, scheme):
    runner = Runner(small_files[scheme].content)
    ends = {np.dtype(details["dtype"]).name for details in [*runner.inputs, *runner.outputs]}
    assert ends == {SCHEMES[scheme].io}
    tree = flatbuffer.read(small_files[scheme].content)
    graph = tree.subgraphs[0]
    types = {code: name for name, code in vars(flatbuffer.schema.TensorType).items() if isinstance(code, int)}
    activations = {types[graph.tensors[o].type] for op in graph.operators for o in op.outputs}
    if scheme == "int8":
        assert activations == {"INT8"}
    if scheme == "int16x8":
        assert activations == {"INT16", "FLOAT32"}


# Smallest signal to noise in dB on the pictures, below what was measured (105, 41, 17, 23, 23, 43).
@pytest.mark.parametrize(
    ("scheme", "decibels"),
    [("float32", 80), ("float16", 35), ("dynamic", 13), ("int8", 18), ("int8_float_io", 18), ("int16x8", 30)],
)
def test_the_file_does_what_the_model_does(small_files, small, pictures, scheme, decibels):
    comparison = export.verify(small_files[scheme].content, small, photographs(40, seed=1))
    assert comparison.images == 40
    assert comparison.snr_db > decibels
    if scheme == "float32":
        assert comparison.relative_difference < 1e-4 and comparison.top1_agreement == 1


def test_every_step_of_the_recipe_pays(small_files, small, pictures):
    """Without bias correction or learned rounding the same file is noisier, by a wide margin on this network."""

    def decibels(**steps):
        recipe = Recipe(**steps)
        content = prepare(small_files["int16x8"].float_content, "int16x8", Calibration(pictures), recipe).write()
        return export.verify(content, small, photographs(40, seed=1)).snr_db

    plain = decibels(rounding="nearest", correct_biases=False)
    assert decibels(rounding="nearest") > plain + 10
    assert decibels(correct_biases=False) > plain + 2


@pytest.mark.slow
def test_same_inputs_same_bytes(small_files, small, pictures, own_workers):
    with Worker() as other:
        assert converted(small, "int8", other, pictures).content == small_files["int8"].content


@pytest.mark.parametrize("scheme", ["int8", "int8_float_io", "int16x8"])
def test_outputs_keep_their_order_and_names(scheme, worker):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), name="photo")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    outputs = [
        layers.Softmax(name="b")(layers.Dense(4)(x)),
        layers.Activation("sigmoid", name="a")(layers.Dense(4)(x)),
        layers.Dense(2, name="c")(x) * 20,
    ]
    model = keras.Model(inputs, outputs)
    pictures = photographs(20, 16)
    content = converted(model, scheme, worker, pictures).content
    for expected, actual in zip(model(pictures[:1]), Runner(content)(pictures[0]), strict=True):
        np.testing.assert_allclose(actual, expected, atol=0.05 * np.abs(expected).max())
    (signature,) = flatbuffer.read(content).signatureDefs
    order = flatbuffer.read(content).subgraphs[0].outputs
    names = [entry.name.decode() for entry in sorted(signature.outputs, key=lambda e: order.index(e.tensorIndex))]
    assert names[:2] == ["b", "a"]


def test_a_model_that_ends_in_a_normalisation_has_the_types_of_its_scheme_at_its_ends(worker):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.LayerNormalization(center=False, scale=False)(layers.Conv2D(8, 1)(inputs)))
    for scheme, end in (("int8", "int8"), ("int16x8", "float32")):
        content = converted(model, scheme, worker, photographs(20, 8)).content
        runner = Runner(content)
        assert [np.dtype(d["dtype"]).name for d in [*runner.inputs, *runner.outputs]] == [end, end]
        assert export.verify(content, model, photographs(20, 8, seed=1)).snr_db > 20


def test_int16x8_with_attention_and_normalisation_agrees_with_float(worker):
    """Islands stay float between 16-bit layers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.LayerNormalization()(layers.Reshape((64, 16))(layers.Conv2D(16, 1)(inputs)))
    x = x + layers.MultiHeadAttention(2, 8)(x, x)
    x = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(x))
    model = keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))
    pictures = photographs(100, 8)
    content = converted(model, "int16x8", worker, pictures).content
    assert export.verify(content, model, pictures[:20]).snr_db > 40
    tree = flatbuffer.read(content)
    graph = flatbuffer.Graph(tree)
    weighted = [op for op in graph.operators if graph.name(op) in ("CONV_2D", "FULLY_CONNECTED")]
    types = {graph.tensors[op.outputs[0]].type for op in weighted}
    assert weighted and types == {flatbuffer.schema.TensorType.INT16}
    assert {"SOFTMAX", "BATCH_MATMUL", "RSQRT"} <= set(flatbuffer.float_operator_counts(tree))


def test_models_in_double_precision_are_refused_with_the_remedy():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Conv2D(8, 1, dtype="float64", name="double")(inputs))
    with pytest.raises(RequestError, match="'double' computes in float64. .*set_dtype_policy"):
        to_tflite(model, "float32")


def test_half_precision_models_are_computed_in_float32(tmp_path):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Conv2D(8, 1, dtype="mixed_float16", name="half")(inputs))
    with pytest.warns(UserWarning, match="computes in mixed_float16.*float32"):
        exported = to_tflite(model, "float32", path=tmp_path / "half.tflite")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    (found,) = Runner(exported.path)(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, image @ np.asarray(model.layers[1].kernel)[0, 0], atol=1e-6)


def nested_model():
    """What users have: models in models, rescaling, resizing, concatenation, two inputs and two outputs."""
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ],
        name="backbone",
    )
    photo, mask = keras.Input((32, 32, 3), name="photo"), keras.Input((16, 16, 1), name="mask")
    x = layers.Multiply()([backbone(photo), mask])
    up = layers.UpSampling2D(interpolation="bilinear")(x)
    head = layers.Dense(3, activation="softmax", name="kind")(layers.Flatten()(layers.MaxPooling2D(4)(x)))
    masks = layers.Conv2D(1, 1, activation="sigmoid", name="where")(layers.Concatenate()([up, photo]))
    return keras.Model([photo, mask], [head, masks])


@pytest.mark.parametrize("scheme", ["float32", "int8_float_io"])
def test_a_users_nested_model(worker, scheme):
    model = nested_model()
    pictures = (photographs(100, size=32) + 1) * 127.5
    samples = [{"photo": picture, "mask": np.full((16, 16, 1), 0.5 + i / 200)} for i, picture in enumerate(pictures)]
    runner = Runner(converted(model, scheme, worker, samples).content)
    assert [details["name"] for details in runner.inputs] == ["photo", "mask"]
    assert [details["name"] for details in runner.outputs] == ["kind", "where"]
    photo, mask = pictures[3], samples[3]["mask"].astype(np.float32)
    for actual, expected in zip(runner(photo, mask), model([photo[None], mask[None]]), strict=True):
        error = np.abs(actual - np.asarray(expected))
        assert error.max() < 1e-5 if scheme == "float32" else error.mean() < 0.05


TABLE = np.random.default_rng(0).normal(0, 3, (36, 4)).astype("float32")


@pytest.fixture(scope="module")
def gathering():
    """A model that gathers from activations and from a table at the place that has the highest score; pictures, and
    the model's answers."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    features = layers.Reshape((36, 8))(layers.Conv2D(8, 5, 2)(inputs))
    scores = layers.Reshape((36,))(layers.Dense(1)(features))
    # Keras' own argmax looks at the bits of zeros, for which TFLite has no operator.
    place = layers.Lambda(lambda scores: tf.argmax(scores, axis=-1, output_type=tf.int32))(scores)
    picked = layers.Lambda(lambda pair: tf.gather(*pair, batch_dims=1), output_shape=(8,))([features, place])
    row = layers.Lambda(lambda place: tf.gather(TABLE, place), output_shape=(4,))(place)
    total = layers.Add()([layers.Dense(4)(picked), row])
    pictures = photographs(40, 16)
    model = keras.Model(inputs, [scores, features, picked, row, total])
    return model, pictures, [np.asarray(output) for output in model(pictures)]


@pytest.mark.parametrize(
    "scheme",
    [
        pytest.param(scheme, marks=() if scheme in ("float32", "int8", "int16x8") else pytest.mark.slow)
        for scheme in SCHEMES
    ],
)
def test_values_are_gathered_by_indices_that_are_computed(worker, gathering, scheme):
    """What is gathered stands at the place that the file itself found; mostly that is the model's place."""
    model, pictures, answers = gathering
    runner = Runner(converted(model, scheme, worker, pictures).content)
    same = 0
    for number, picture in enumerate(pictures):
        scores, features, picked, row, total = runner(picture)
        place = int(scores.argmax())
        assert np.abs(picked[0] - features[0, place]).max() <= 2 * np.ptp(features) / 255
        assert np.abs(row[0] - TABLE[place]).max() <= 2 * np.ptp(TABLE) / 255
        if place == answers[0][number].argmax():
            same += 1
            np.testing.assert_allclose(total[0], answers[4][number], atol=0.05 * np.ptp(TABLE))
    assert same >= (40 if scheme in ("float32", "float16") else 36)


def test_sequential_model_with_a_constant_output(worker):
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
    model.layers[-1].set_weights([np.zeros((784, 2)), np.array([1.0, -1.0])])
    runner = Runner(converted(model, "int8", worker, photographs(100, size=16)).content)
    np.testing.assert_allclose(runner(photographs(1, size=16)[0])[0], [[1, -1]], atol=0.02)


def test_an_op_that_tflite_lacks_is_refused_with_its_layer(worker):
    class Oddity(layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.math.erfinv(tf.math.betainc(x, x, x))

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Oddity(name="my_oddity")(layers.Dense(3)(inputs)))
    with pytest.raises(ConversionError, match=r"Betainc \(in 'my_oddity'\); Erfinv \(in 'my_oddity'\)"):
        convert(freeze(model), worker)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(1, 1)]), "every side fixed"),
        (lambda: keras.Sequential([layers.Dense(1)]), "no input shape"),
        (lambda: "efficientnet_lite9", "Did you mean 'efficientnet_lite"),
        (lambda: 3, "Received int for a model"),
    ],
)
def test_models_that_cannot_become_a_file(tmp_path, model, told):
    with pytest.raises(RequestError, match=told):
        to_tflite(model(), "float32", path=tmp_path / "x.tflite")


def test_wrong_requests_write_nothing(small, tmp_path):
    path = tmp_path / "x.tflite"
    with pytest.raises(RequestError, match="Did you mean 'int8'"):
        to_tflite(small, "int88", path=path)
    with pytest.raises(RequestError, match="needs calibration images"):
        to_tflite(small, "int8", path=path)
    with pytest.raises(RequestError, match="is a file"):
        (tmp_path / "taken").write_text("mine")
        to_tflite(small, "float32", path=tmp_path / "taken" / "x.tflite")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_to_tflite_writes_file_and_manifest_and_spares_what_is_not_its_own(small, tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(b"mine")
    with pytest.raises(RequestError, match="overwrite"):
        to_tflite(small, "float16", path=path)
    assert path.read_bytes() == b"mine"
    path.unlink()
    result = to_tflite(small, "float16", path=path)
    manifest = json.loads((tmp_path / "x.tflite.json").read_text())
    assert manifest == result.manifest and manifest["bytes"] == path.stat().st_size
    again = to_tflite(small, "float16", path=path)  # its own earlier result may be replaced
    assert again.manifest["sha256"] == manifest["sha256"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.tflite", "x.tflite.json"]


@pytest.mark.slow
def test_exporting_from_a_script_without_a_main_guard(tmp_path, small):
    """A child made by multiprocessing would run the script again; ours does not."""
    small.save(tmp_path / "model.keras")
    script = tmp_path / "script.py"
    script.write_text(
        "import keras\nfrom mobilenets_tf import export\nprint('once')\n"
        "print(export.to_tflite(keras.models.load_model('model.keras'), 'float32').path)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["once", "small_float32.tflite"], done.stderr


def test_a_model_may_be_given_by_its_path(tmp_path, small):
    small.save(tmp_path / "mine.keras")
    exported = to_tflite(tmp_path / "mine.keras", "float32", path=tmp_path / "mine.tflite")
    assert exported.path.is_file() and exported.manifest["scheme"] == "float32"
    with pytest.raises(RequestError, match="No such model file"):
        to_tflite(tmp_path / "other.keras", "float32", path=tmp_path / "mine.tflite")
