"""A float file as a model: the file that was given is the reference, rewrites keep its outputs."""

import keras
import numpy as np
import pytest

from mobilenets_tf import export
from mobilenets_tf.cli import main
from mobilenets_tf.conversion.convert import convert, freeze
from mobilenets_tf.errors import RequestError
from mobilenets_tf.models import foreign_model
from mobilenets_tf.models.tflite_model import TFLiteModel
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.quantize import Calibration
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.weight_types import with_weights
from tests.support.strangers_files import Draft, classifier, from_torch


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    for name, content in {"stock": classifier(), "torch": from_torch()}.items():
        (folder / f"{name}.tflite").write_bytes(content)
    return folder


def pictures():
    ramp = np.linspace(-1, 1, 16, dtype=np.float32)
    return np.stack([np.outer(ramp, np.roll(ramp, turn))[..., None] * (1, 0.5, -1) for turn in range(0, 16, 2)])


def opened(path, **options):
    with pytest.warns(UserWarning, match="channels first"):
        return TFLiteModel(path, **options)


def test_the_reference_is_the_file_that_was_given(theirs):
    model = opened(theirs / "torch.tflite")
    (image,) = model.inputs
    assert image == ("image", (1, 16, 16, 3)) and model.ends[0].activation == "softmax"
    batch = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    given = Runner(theirs / "torch.tflite")
    expected = [given(sample.transpose(2, 0, 1))[0][0] for sample in batch]
    np.testing.assert_array_equal(model.answers([batch])[0], expected)


def test_the_float_file_has_the_fewest_ops_and_the_same_outputs(theirs):
    model = opened(theirs / "torch.tflite")
    content = model.float_file(None).content
    counts = flatbuffer.operator_counts(flatbuffer.read(content))
    assert not {"TRANSPOSE", "PAD", "DIV", "SQRT"} & set(counts) and counts["HARD_SWISH"] == 1
    sample = np.random.default_rng(1).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(Runner(content)(sample)[0], model.answers([sample])[0], atol=1e-5)
    assert Runner(content).execution_plan() == {"DELEGATE": 1}


def test_a_rewrite_that_changes_the_outputs_is_left_out(theirs, monkeypatch):
    def wrong(tree):
        graph = flatbuffer.Graph(tree)
        convolution = next(operator for operator in graph.operators if graph.name(operator) == "CONV_2D")
        flatbuffer.replace_constant(tree, convolution, 1, 1.01 * graph.constant(convolution.inputs[1]))

    monkeypatch.setattr(foreign_model, "_REWRITES", {"wrong": wrong})
    model = TFLiteModel(theirs / "stock.tflite")
    with pytest.warns(UserWarning, match="wrong stay as they are: .* would differ by"):
        assert model.float_file(None).content == TFLiteModel(theirs / "stock.tflite")._content


@pytest.mark.parametrize("beside", [np.inf, np.nan, 0.0])
@pytest.mark.parametrize("wrong", [2.0, np.inf, np.nan])
def test_a_rewrite_is_judged_by_the_finite_values(beside, wrong):
    wanted = np.float32([[1, beside]])
    for found, unchanged in (([[1, beside]], True), ([[wrong, beside]], False)):
        difference = foreign_model._difference(lambda found=found: [np.float32(found)], [[]], [[wanted]])
        assert (difference <= foreign_model.REWRITE_TOLERANCE) is unchanged


@pytest.mark.parametrize("weights, least", [("float16", 50), ("int8", 25)])
def test_weights_are_stored_in_fewer_bits(weights, least):
    draft = Draft(seed=3)
    content = draft.finished(draft.mean(draft.conv(draft.conv(draft.x, 16), 32, kernel=3), (1, 2)))
    stored = with_weights(content, weights)
    assert len(stored) < 0.75 * len(content) and Runner(stored).execution_plan() == {"DELEGATE": 1}
    sample = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    expected, found = Runner(content)(sample)[0], Runner(stored)(sample)[0]
    assert 0 < np.sum((expected - found) ** 2) < np.sum(expected**2) / 10 ** (least / 10)


def test_what_half_precision_cannot_hold_stays_float32():
    draft = Draft()
    x = draft.mean(draft.conv(draft.x, 4), (1, 2))
    root = draft.op("RSQRT", [draft.binary("ADD", draft.binary("MUL", x, x), 1e-8)], draft.shape(x))
    x = draft.binary("MUL", draft.binary("MUL", x, root), 1e5)
    content = draft.finished(x)
    zeros = np.zeros((1, 16, 16, 3), np.float32)
    for sample in (zeros - 9, zeros):
        wanted, found = (Runner(each)(sample)[0] for each in (content, with_weights(content, "float16")))
        np.testing.assert_allclose(found, wanted, rtol=0.05)


@pytest.mark.parametrize("names", [["image"], ["image", "q"], ["p", "q"], ["q", "p"]])
def test_the_reference_has_the_names_of_its_signature(tmp_path, names):
    draft = Draft()
    scores = draft.mean(draft.conv(draft.x, 4), (1, 2))
    draft.graph.outputs = [scores] * len(names)
    flatbuffer.set_signature(draft.tree, ["image"], names)
    (tmp_path / "a.tflite").write_bytes(flatbuffer.write(draft.tree))
    model = TFLiteModel(tmp_path / "a.tflite")
    made = Runner(model.float_file(None).content)(pictures()[0])
    for found, wanted in zip(made, model.answers([pictures()[:1].astype(np.float32)]), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_constants_that_are_no_numbers_are_refused(tmp_path):
    draft = Draft()
    x = draft.binary("MUL", draft.conv(draft.x, 4), np.full(4, np.nan))
    (tmp_path / "nan.tflite").write_bytes(draft.finished(draft.mean(x, (1, 2))))
    with pytest.raises(RequestError, match=r"nan.tflite: the constant 'constant\d+' is NaN"):
        TFLiteModel(tmp_path / "nan.tflite").check()


def test_a_file_that_cannot_run_is_refused(tmp_path):
    draft = Draft()
    x = draft.conv(draft.x, 4)
    draft.graph.operators[-1].inputs[1] = draft.floats(np.zeros((4, 3, 3, 5)))
    (tmp_path / "wrong.tflite").write_bytes(draft.finished(x))
    with pytest.raises(RequestError, match="wrong.tflite cannot be run: .*CONV_2D"):
        TFLiteModel(tmp_path / "wrong.tflite").float_file(None)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"weights": "imagenet"}, "--weights"),
        ({"alpha": 0.5}, "--alpha"),
        ({"classes": 3}, "--classes"),
        ({"resolution": 32}, "fixed shape"),
        ({"signature": "other"}, "signature"),
    ],
)
def test_options_that_the_file_decides_are_refused(theirs, options, words):
    with pytest.raises(RequestError, match=words):
        ModelSource(str(theirs / "stock.tflite"), **options).check()
    with pytest.raises(RequestError, match="--signature"):
        ModelSource("mobilenet_v2", weights="random", signature="a").check()


def test_a_detector_in_another_form_is_refused(theirs, tmp_path):
    path = tmp_path / "found.tflite"
    path.write_bytes((theirs / "stock.tflite").read_bytes())
    path.with_name("found.tflite.json").write_text('{"task": "detect", "form": "decoded"}')
    with pytest.raises(RequestError, match="'decoded'.*--output"):
        ModelSource(str(path)).check()


@pytest.mark.filterwarnings("ignore:Only 8 calibration samples")
def test_weights_that_are_computed_stay_float(tmp_path):
    draft = Draft()
    image = draft.conv(draft.x, 4)
    kernel = draft.op("RESHAPE", [draft.mean(image, (1, 2)), draft.integers((1, 1, 1, 4))], (1, 1, 1, 4))
    options = schema.Conv2DOptionsT()
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    x = draft.op("CONV_2D", [image, kernel, draft.floats(np.zeros(1))], (1, 16, 16, 1), options)
    (tmp_path / "a.tflite").write_bytes(draft.finished(draft.mean(x, (1, 2))))
    made = export.to_tflite(str(tmp_path / "a.tflite"), "int8", Calibration(pictures()), tmp_path / "b.tflite")
    assert made.manifest["float_operators"].get("CONV_2D", 0) == 1


@pytest.mark.filterwarnings("ignore:Only 8 calibration samples")
@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic", "int8", "int16x8"])
def test_every_scheme_is_made_of_a_file(theirs, tmp_path, scheme):
    calibration = Calibration(pictures()) if "int" in scheme else None
    out = tmp_path / "out.tflite"
    made = export.to_tflite(str(theirs / "stock.tflite"), scheme, calibration, out)
    assert made.manifest["scheme"] == scheme
    comparison = export.verify(out, str(theirs / "stock.tflite"), pictures())
    assert comparison.agreement >= 0.75 and comparison.snr_db > 25
    again = export.to_tflite(str(theirs / "stock.tflite"), scheme, calibration, tmp_path / "again.tflite")
    assert again.manifest["sha256"] == made.manifest["sha256"]


def test_train_refuses_a_file(theirs, tmp_path, capsys):
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["train", str(theirs / "stock.tflite"), *options]) == 2
    assert "qat trains them" in capsys.readouterr().err


def test_the_files_own_normalisation_is_noticed(worker, tmp_path):
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    for name, scale, told in (("pixels", 1 / 127.5, (0.0, 1.0)), ("shares", 2.0, (0.0, 255.0)), ("none", None, None)):
        x = image if scale is None else layers.Rescaling(scale, -1.0)(image)
        x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Conv2D(4, 3, padding="same")(x)))
        content = convert(freeze(keras.Model(image, layers.Dense(2)(x))), worker)
        (tmp_path / f"{name}.tflite").write_bytes(content)
        own = TFLiteModel(tmp_path / f"{name}.tflite").own_normalisation
        assert (own and (own.mean, own.std)) == told
    with pytest.warns(UserWarning, match=r"pixels: it normalises pixel values 0 to 255 by itself, in .*rescaling"):
        source = ModelSource(str(tmp_path / "pixels.tflite"))
        assert source.preprocessing(source.open()).std == (1.0,) * 3


@pytest.mark.parametrize(("shape", "dtype"), [((8, 8, 8), "float32"), ((8, 8, 3), "int32")])
def test_what_is_no_image_of_floats_has_no_normalisation(worker, tmp_path, shape, dtype):
    values = keras.Input(shape, dtype=dtype)
    x = keras.ops.cast(keras.layers.ZeroPadding2D(1)(values), "float32")
    x = keras.layers.Conv2D(2, 3)(keras.layers.Rescaling(1 / 127.5, -1.0)(x))
    content = convert(freeze(keras.Model(values, keras.layers.GlobalAveragePooling2D()(x))), worker)
    (tmp_path / "net.tflite").write_bytes(content)
    assert TFLiteModel(tmp_path / "net.tflite").own_normalisation is None
