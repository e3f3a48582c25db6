"""The source of a model: what it says of the input, and where that comes from."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from mobilenets_tf import ModelSource, Preprocessing, RequestError

CROP = Preprocessing(64, 72, "bicubic", (1.0,) * 3, (2.0,) * 3, "crop_then_resize")


def taking(size):
    """What ``preprocessing`` looks at of a ``keras.Model``."""
    return SimpleNamespace(inputs=[SimpleNamespace(shape=(None, size, size, 3))], own_normalisation=None)


@pytest.fixture
def file(tmp_path):
    """A model file from elsewhere, of which nothing is known but its path."""
    path = tmp_path / "own.keras"
    path.write_bytes(b"")
    return path


def test_a_model_of_ones_own_gets_the_whole_photograph_as_keras_loaders_give_it(file):
    told = ModelSource(file, mean=0, std=1).preprocessing(taking(96))
    assert told == Preprocessing(96, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert (told.crop, told.interpolation) == ("stretch", "keras_bilinear")
    weights = ModelSource("mobilenet_v2", weights=str(file), mean=0, std=1).preprocessing(taking(96))
    assert weights == told


def test_published_weights_keep_their_crop_and_random_ones_have_none():
    published = ModelSource("efficientnet_lite0", weights="imagenet").preprocessing(taking(224))
    assert (published.crop, published.resize, published.interpolation) == ("crop_then_resize", 256, "bicubic")
    random = ModelSource("efficientnet_lite0").preprocessing(taking(224))
    assert (random.crop, random.mean, random.std) == ("stretch", published.mean, published.std)


def test_a_request_says_otherwise_than_the_manifest_in_what_it_says_only(file):
    (file.parent / "own.keras.json").write_text(json.dumps({"preprocessing": asdict(CROP)}))
    assert ModelSource(file).preprocessing(taking(128)) == CROP.at(128)
    other = ModelSource(file, mean=3, std=4, interpolation="nearest").preprocessing(taking(64))
    assert other == Preprocessing(64, 72, "nearest", (3.0,) * 3, (4.0,) * 3, "crop_then_resize")
    assert ModelSource(file, resize=80).preprocessing(taking(64)).resize == 80
    assert ModelSource(file, crop="stretch").preprocessing(taking(64)).resize == 64
    assert ModelSource(file, crop="resize_then_crop").preprocessing(taking(64)).resize == 72


def test_the_options_name_the_crop_for_the_next_command(file):
    source = ModelSource(file, crop="crop_then_resize", resize=72, interpolation="bicubic")
    assert source.options().endswith("--crop crop_then_resize --resize 72 --interpolation bicubic")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"crop": "center"}, "Unknown crop 'center'"),
        ({"interpolation": "bilinaer"}, "Did you mean 'bilinear'"),
        ({"resize": 0}, "resize=0: expected a number of pixels"),
        ({"mean": 0}, "Give --mean and --std together"),
    ],
)
def test_a_wrong_input_is_refused_before_any_work(file, options, told):
    with pytest.raises(RequestError, match=told):
        ModelSource(file, **options).check()


def test_a_resize_without_a_crop_and_a_crop_below_the_input_are_refused(file):
    with pytest.raises(RequestError, match="resize=72 is for a crop, and the whole photograph is taken"):
        ModelSource(file, mean=0, std=1, resize=72).preprocessing(taking(64))
    with pytest.raises(RequestError, match="size=64 must be positive and at most resize=32"):
        ModelSource(file, mean=0, std=1, crop="crop_then_resize", resize=32).preprocessing(taking(64))


def test_a_detector_is_not_cropped(file):
    with pytest.raises(RequestError, match="to detect, a network gets the whole photograph. Leave --crop .crop=. out"):
        ModelSource("ssdlite_mobilenet_v2", crop="crop_then_resize").preprocessing(taking(320))


def test_what_is_missing_is_named_for_the_command_line_and_for_python(file):
    with pytest.raises(RequestError, match=r"Pass --mean and --std .*in Python: ModelSource\(\.\.\., mean=, std=\)"):
        ModelSource(file).preprocessing(taking(64))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (ModelSource("mobilenet_v2"), "RANDOM WEIGHTS: mobilenet_v2 .* --weights imagenet, .*--weights FILE"),
        (ModelSource("ssdlite_mobilenet_v2"), "RANDOM WEIGHTS: ssdlite_mobilenet_v2 .* Give --weights FILE"),
        (ModelSource("mobilenet_v2", weights="head of others", classes=7), "RANDOM HEAD"),
    ],
)
def test_random_weights_are_said_aloud(source, said, monkeypatch):
    monkeypatch.setattr("mobilenets_tf.weights.catalog.require", lambda record: record)
    monkeypatch.setattr("mobilenets_tf.modelsource._published", lambda source: None)
    with pytest.warns(UserWarning, match=said):
        source.check()


def test_random_weights_that_were_asked_for_or_will_be_trained_are_not_warned_of(recwarn):
    asked = ModelSource("mobilenet_v2", weights="random")
    asked.check()
    ModelSource("mobilenet_v2").check(may_be_random=True)
    assert not recwarn and asked.facts() == {"model": "mobilenet_v2", "weights": "random"}
    assert asked.random_part == "network" and asked.weight_set() is None and not asked.says_its_input
    assert "--weights random" in asked.options()


def test_a_manifest_says_of_which_model_a_file_was_made(file):
    source = ModelSource("mobilenet_v2", weights="imagenet", alpha=0.35, mean=(0,), std=(255,))
    facts = json.loads(json.dumps(source.plain() | {"weights_sha256": "57", "weights_source": "somewhere"}))
    assert ModelSource.of_facts(facts) == source
    assert ModelSource.of_facts({"model": str(file)}) == ModelSource(str(file))
    assert ModelSource.of_facts({"model": "mobilenet_v2", "weights_sha256": "57"}) is None  # a keras.Model, now gone
    assert ModelSource.of_facts({"model": "mine"}) is None and ModelSource.of_facts({}) is None


def test_a_model_with_open_sides_is_not_trained():
    import keras

    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image)), name="open")
    with pytest.raises(RequestError, match=r"open takes \(None, None, 3\).*has none. Build the model again"):
        ModelSource(model, mean=0, std=255).preprocessing(model)


def test_a_model_of_text_is_not_told_to_take_images():
    import keras

    words = keras.Input((None,))
    model = keras.Model(words, keras.layers.Identity()(words), name="text")
    with pytest.raises(RequestError, match="this command feeds one image"):
        ModelSource(model, mean=0, std=255).preprocessing(model)


def test_a_savedmodel_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "net.tflite"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"")
    source = ModelSource(str(folder))
    assert source.is_saved_model and not source.is_tflite and source.preload == "tensorflow"
