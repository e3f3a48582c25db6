"""Weights into networks: every kind of file, and everything that can be wrong with one."""

import json
import re
import zipfile

import keras
import numpy as np
import pytest

from mobilenets_tf import ModelSource, RequestError, create_model, load_model
from mobilenets_tf.weights import catalog
from mobilenets_tf.weights.keras_config import shapes_alone
from tests.support.classifiers import filled
from tests.support.make_goldens import GOLDENS, generated


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory):
    """MobileNetV2 in timm's spelling, as safetensors."""
    from safetensors.numpy import save_file

    goldens = np.load(GOLDENS)
    names = goldens["timm/mobilenet_v2/1.0/names"].tolist()
    shapes = [tuple(map(int, shape.split())) for shape in goldens["timm/mobilenet_v2/1.0/shapes"]]
    path = tmp_path_factory.mktemp("weights") / "v2.safetensors"
    save_file({name: generated(name, shape) for name, shape in zip(names, shapes, strict=True)}, path)
    return path


def edited(path, tmp_path, edit):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, tmp_path / "edited.safetensors")
    return tmp_path / "edited.safetensors"


def build(weights, **options):
    return create_model("mobilenet_v2", resolution=64, weights=weights, **options)


# The first two stages of the published network, for files of which it does not matter how many there are.
TWO_STAGES = [(1, 16, 1, 1), (6, 24, 2, 2)]


@pytest.fixture(scope="module")
def short_file(checkpoint_file, tmp_path_factory):
    """Of ``checkpoint_file`` what ``TWO_STAGES`` have."""

    def edit(tensors):
        for name in [name for name in tensors if re.match(r"blocks\.[2-6]\.", name)]:
            del tensors[name]
        tensors["conv_head.weight"] = tensors["conv_head.weight"][:, :24].copy()

    return edited(checkpoint_file, tmp_path_factory.mktemp("short"), edit)


NARROW = [(1, 8, 1, 1), (6, 16, 2, 2), (6, 16, 1, 2), (6, 16, 1, 2), (6, 24, 1, 2)]


@pytest.fixture(scope="module")
def narrow():
    """A narrow MobileNetV2 for 10 classes, its weights and BatchNorm statistics far from trivial."""
    return filled(create_model("mobilenet_v2", rows=NARROW, resolution=64, classes=10))


def test_a_file_takes_its_frameworks_convention(checkpoint_file):
    model = build(checkpoint_file)
    assert model.get_layer("stem_bn").epsilon == 1e-5
    assert model.get_layer("stem_conv").padding == "valid"
    np.testing.assert_array_equal(model.get_layer("classifier").kernel, generated("classifier.weight", (1000, 1280)).T)


def test_timms_conversions_from_tensorflow_take_tensorflows_convention(short_file, tmp_path):
    renamed = tmp_path / "tf_v2.safetensors"
    renamed.write_bytes(short_file.read_bytes())
    model = build(renamed, rows=TWO_STAGES)
    assert model.get_layer("stem_bn").epsilon == 1e-3
    assert model.get_layer("stem_conv").padding == "same"


@pytest.mark.parametrize("classifier", ["predictions", pytest.param("Logits", marks=pytest.mark.slow)])
def test_keras_applications_h5(tmp_path, classifier):
    """The layout of the published files, whose V2 calls its classifier "Logits"."""
    import h5py

    goldens = np.load(GOLDENS)
    names = goldens["keras/mobilenet_v2/0.35/names"].tolist()
    shapes = [tuple(map(int, shape.split())) for shape in goldens["keras/mobilenet_v2/0.35/shapes"]]
    with h5py.File(tmp_path / "v2.h5", "w") as file:
        for name, shape in zip(names, shapes, strict=True):
            layer, parameter = name.split(".")
            layer = classifier if layer == "predictions" else layer
            group = file.require_group(layer)
            group[f"{layer}/{parameter}:0"] = generated(name, shape)
            group.attrs["weight_names"] = [*group.attrs.get("weight_names", []), f"{layer}/{parameter}:0"]
        file.attrs["layer_names"] = list(file)
    model = build(tmp_path / "v2.h5", alpha=0.35)
    np.testing.assert_array_equal(model.get_layer("classifier").bias, generated("predictions.bias", (1000,)))
    assert build(tmp_path / "v2.h5", alpha=0.35, include_top=False).output.shape[-1] == 1280


def test_keras_published_mobilenet_v3_files(tmp_path):
    """They are of Keras 2, which had "/" in layer names."""
    import h5py

    from tests.support.make_goldens import SIZE, input_image

    key = "keras/mobilenet_v3_small/0.75"
    goldens = np.load(GOLDENS)
    names, shapes = goldens[f"{key}/names"].tolist(), goldens[f"{key}/shapes"]
    with h5py.File(tmp_path / "v3.h5", "w") as file:
        order = []
        for name, shape in zip(names, shapes, strict=True):
            layer, parameter = name.split(".")
            old = re.sub(r"_(expand|depthwise|project|squeeze_excite)", r"/\1", layer).replace("_bn", "/BatchNorm")
            old = re.sub(r"^conv|(?<=squeeze_excite)_conv", lambda m: m[0].replace("_", "/").replace("c", "C"), old)
            old = old.replace("logits", "Logits")
            group = file.require_group(old)
            group[f"{old}/{parameter}:0"] = generated(name, tuple(map(int, shape.split())))
            group.attrs["weight_names"] = [*group.attrs.get("weight_names", []), f"{old}/{parameter}:0"]
            order += [old] if old not in order else []
        published = {
            "Conv",
            "Conv/BatchNorm",
            "expanded_conv/squeeze_excite/Conv_1",
            "expanded_conv_3/expand",
            "Conv_2",
        }
        assert published <= set(order)
        file.attrs["layer_names"] = order
    model = create_model(
        "mobilenet_v3_small", alpha=0.75, resolution=SIZE, weights=tmp_path / "v3.h5", classifier_activation=None
    )
    logits, expected = np.ravel(model(input_image()[None], training=False)), goldens[f"{key}/logits"]
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def apple_checkpoint(folded):
    """MobileOne-S4's tensors as apple/ml-mobileone calls them, made of that repository's names alone."""

    def batchnorm(name, channels):
        return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}

    def unit(name, inputs, outputs, kernel, stride, groups, squeezed):
        shapes, fan_in = {}, inputs // groups
        if folded:
            shapes |= {
                f"{name}.reparam_conv.weight": (outputs, fan_in, kernel, kernel),
                f"{name}.reparam_conv.bias": (outputs,),
            }
        else:
            shapes |= {f"{name}.rbr_conv.0.conv.weight": (outputs, fan_in, kernel, kernel)}
            shapes |= batchnorm(f"{name}.rbr_conv.0.bn", outputs)
            if kernel > 1:
                shapes |= {f"{name}.rbr_scale.conv.weight": (outputs, fan_in, 1, 1)}
                shapes |= batchnorm(f"{name}.rbr_scale.bn", outputs)
            if stride == 1 and inputs == outputs:
                shapes |= batchnorm(f"{name}.rbr_skip", outputs)
        if squeezed:
            for part, (rows, columns) in (("reduce", (outputs // 16, outputs)), ("expand", (outputs, outputs // 16))):
                shapes |= {f"{name}.se.{part}.weight": (rows, columns, 1, 1), f"{name}.se.{part}.bias": (rows,)}
        return shapes

    shapes, width = unit("stage0", 3, 64, 3, 2, 1, False), 64
    for stage, (outputs, blocks, with_se) in enumerate(((192, 2, 0), (448, 8, 0), (896, 10, 5), (2048, 1, 1)), 1):
        for block in range(blocks):
            squeezed = block >= blocks - with_se
            stride = 2 if block == 0 else 1
            shapes |= unit(f"stage{stage}.{2 * block}", width, width, 3, stride, width, squeezed)
            shapes |= unit(f"stage{stage}.{2 * block + 1}", width, outputs, 1, 1, 1, squeezed)
            width = outputs
    shapes |= {"linear.weight": (1000, 2048), "linear.bias": (1000,)}
    return {name: generated(name, shape) for name, shape in shapes.items()}


@pytest.mark.slow
def test_apples_mobileone_in_both_forms(tmp_path):
    from safetensors.numpy import save_file

    for folded in (False, True):
        tensors = apple_checkpoint(folded)
        save_file(tensors, tmp_path / "s4.safetensors")
        model = create_model("mobileone_s4", resolution=32, weights=tmp_path / "s4.safetensors", reparameterized=folded)
        assert model.get_layer("stem_pad").padding == ((1, 1), (1, 1))
        part, source = ("conv", "reparam_conv") if folded else ("scale_conv", "rbr_scale.conv")
        np.testing.assert_array_equal(
            model.get_layer(f"stage3_block10_depthwise_{part}").kernel,
            tensors[f"stage3.18.{source}.weight"].transpose(2, 3, 0, 1),
        )
        np.testing.assert_array_equal(
            model.get_layer("stage4_block1_project_squeeze_conv").bias, tensors["stage4.1.se.reduce.bias"]
        )
    with pytest.raises(RequestError, match="reparameterized=True"):
        create_model("mobileone_s4", resolution=32, weights=tmp_path / "s4.safetensors")


def test_networks_trained_on_bgr_take_rgb(tmp_path):
    from safetensors.numpy import save_file

    goldens = np.load(GOLDENS)
    names, shapes = goldens["cvnets/mobilevit_v3_xxs/names"].tolist(), goldens["cvnets/mobilevit_v3_xxs/shapes"]
    tensors = {n: generated(n, tuple(map(int, s.split()))) for n, s in zip(names, shapes, strict=True)}
    save_file(tensors, tmp_path / "checkpoint_ema_best.safetensors")
    model = create_model("mobilevit_v3_xxs", resolution=64, weights=tmp_path / "checkpoint_ema_best.safetensors")
    stem = tensors["conv_1.block.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.get_layer("stem_conv").kernel, stem[:, :, ::-1])


def test_without_the_top_mobilenet_v3s_hidden_layer_is_not_left_over(tmp_path):
    from safetensors.numpy import save_file

    goldens = np.load(GOLDENS)
    key = "torchvision/mobilenet_v3_small"
    names, shapes = goldens[f"{key}/names"].tolist(), goldens[f"{key}/shapes"]
    tensors = {n: generated(n, tuple(map(int, s.split()))) for n, s in zip(names, shapes, strict=True)}
    save_file(tensors, tmp_path / "v3.safetensors")
    options = {"resolution": 64, "weights": tmp_path / "v3.safetensors"}
    assert create_model("mobilenet_v3_small", include_top=False, **options).output.shape[-1] == 576
    with pytest.raises(RequestError, match="does not fit mobilenet_v3_large"):
        create_model("mobilenet_v3_large", rows=[[(3, 1, 16, True, "relu", 2)]], **options)


@pytest.mark.slow
def test_mobilevit_without_its_top_takes_files_that_have_one(tmp_path):
    from safetensors.numpy import save_file

    goldens = np.load(GOLDENS)
    key = "timm/mobilevit_xxs/None"
    tensors = {
        name: generated(name, tuple(map(int, shape.split())))
        for name, shape in zip(goldens[f"{key}/names"].tolist(), goldens[f"{key}/shapes"], strict=True)
    }
    save_file(tensors, tmp_path / "timm.safetensors")
    options = {"resolution": 64, "include_top": False}
    timms = create_model("mobilevit_xxs", weights=tmp_path / "timm.safetensors", **options)
    create_model("mobilevit_xxs", resolution=64, weights=tmp_path / "timm.safetensors").save(tmp_path / "own.keras")
    ours = create_model("mobilevit_xxs", weights=tmp_path / "own.keras", **options)
    for first, second in zip(timms.weights, ours.weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_each_network_asks_for_its_own_weights():
    assert catalog.find("mobilevit_v3_xxs_l2", "imagenet").member.startswith("mobilevitv3_XXS_L2_e300_7023/")
    with pytest.raises(RequestError, match="fetch mobilevit_v3_xxs_l2$"):
        create_model("mobilevit_v3_xxs_l2", weights="imagenet")
    with shapes_alone():
        for name in ("mobilevit_v3_050_l2", "mobilenet_v3_small_minimalistic"):
            assert create_model(name, resolution=32).name == name


def test_a_file_of_another_network_is_told_by_its_tensors(checkpoint_file):
    with pytest.raises(RequestError, match="does not fit mobileone_s0"):
        create_model("mobileone_s0", rows=[(16, 2, 2, 0)], branches=1, resolution=32, weights=checkpoint_file)


def test_an_unknown_source_is_said_so(tmp_path):
    from safetensors.numpy import save_file

    save_file({"backbone.0.weight": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(RequestError, match="called backbone.0.weight, .*Known spellings: timm"):
        build(tmp_path / "w.safetensors")


def test_without_the_top_the_classifier_is_not_left_over(short_file):
    model = build(short_file, rows=TWO_STAGES, include_top=False)
    np.testing.assert_array_equal(model.get_layer("stem_bn").gamma, generated("bn1.weight", (32,)))


def test_other_classes_keep_the_backbone_and_say_so(short_file):
    with pytest.warns(UserWarning, match="1000 classes.*asked for 7"):
        model = build(short_file, rows=TWO_STAGES, classes=7)
    np.testing.assert_array_equal(model.get_layer("head_bn").gamma, generated("bn2.weight", (1280,)))
    assert model.output.shape == (None, 7)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t: t.pop("bn1.weight"), r"missing \(1\): bn1.weight \(for stem_bn.gamma\)"),
        (lambda t: t.update({"blocks.7.0.conv_pw.weight": np.zeros(3, np.float32)}), r"left over \(1\): blocks.7.0"),
        (
            lambda t: t.update({"conv_stem.weight": np.zeros((16, 3, 3, 3), np.float32)}),
            r"wrong shape \(1\): conv_stem",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_listed(short_file, tmp_path, edit, told):
    with pytest.raises(RequestError, match=told):
        build(edited(short_file, tmp_path, edit), rows=TWO_STAGES)


@pytest.mark.filterwarnings("ignore:.* is assumed to have:UserWarning")
def test_a_checkpoint_of_another_network(checkpoint_file):
    with pytest.raises(RequestError, match="does not fit efficientnet_lite0"):
        create_model("efficientnet_lite0", rows=[(3, 1, 16, 1, 1)], resolution=64, weights=checkpoint_file)
    with pytest.raises(RequestError, match="does not fit mobilenet_v1"):
        create_model("mobilenet_v1", rows=[(64, 1, 1)], resolution=64, weights=checkpoint_file)


@pytest.mark.parametrize("package", ["keras", pytest.param("tf_keras", marks=pytest.mark.slow)])
def test_models_of_keras_applications_are_weights(package):
    """Of Keras 3 and of Keras 2, and inside of a model of the user's."""
    kit = pytest.importorskip(package)
    theirs = kit.applications.MobileNet((64, 64, 3), weights=None, alpha=0.25, include_top=False)
    random = np.random.default_rng(0)
    theirs.set_weights([random.uniform(0.5, 1, weight.shape) for weight in theirs.get_weights()])
    options = {"alpha": 0.25, "resolution": 64, "include_top": False}
    own = create_model("mobilenet_v1", weights=theirs, **options)
    image = random.uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    expected = np.asarray(theirs(image))
    np.testing.assert_allclose(own(image), expected, rtol=1e-4, atol=1e-4 * expected.max())
    inside = kit.Sequential([kit.Input((64, 64, 3)), theirs, kit.layers.GlobalAveragePooling2D()])
    again = create_model("mobilenet_v1", weights=own, **options)
    with pytest.raises(RequestError, match="the model .* is not of a known source: its tensors are called"):
        create_model("mobilenet_v1", weights=kit.Sequential([kit.Input((3,)), kit.layers.Dense(2)]))
    for first, second, third in zip(
        own.weights, create_model("mobilenet_v1", weights=inside, **options).weights, again.weights, strict=True
    ):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)


def test_weights_that_are_no_weights_are_refused(narrow):
    with pytest.raises(RequestError, match="weights=3 is a int; expected .* or a keras.Model"):
        build(3)
    with pytest.raises(RequestError, match=r"create_model\('mobilenet_v2', weights=model\)"):
        ModelSource("mobilenet_v2", weights=narrow)
    assert create_model("ssdlite_mobilenet_v2", rows=NARROW, resolution=64, classes=2, weights=narrow).name


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_files_of_our_own_go_round(narrow, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    narrow.save_weights(path) if suffix == ".weights.h5" else narrow.save(path)
    options = {"resolution": 64, "classes": 10, "weights": path}
    again = create_model("mobilenet_v2", rows=NARROW, **options)
    for ours, theirs in zip(again.get_weights(), narrow.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(
        RequestError, match=r"does not fit mobilenet_v2. wrong shape \(\d+\): stage2_block1_project_conv.0"
    ):
        create_model("mobilenet_v2", rows=[NARROW[0], (6, 24, 2, 2), *NARROW[2:]], **options)


def test_a_tag_that_is_not_here_says_what_to_do(monkeypatch):
    monkeypatch.setattr(catalog, "locate", lambda record: None)
    for network, options, command in (
        ("mobilenet_v1", {}, "mobilenet_v1"),
        ("mobilenet_v1", {"alpha": 0.25}, "mobilenet_v1 --alpha 0.25"),
        ("mobilenet_v3_small", {"weights": "timm"}, "mobilenet_v3_small --tag timm"),
        ("ssdlite_efficientnet_lite0", {}, "efficientnet_lite0"),
    ):
        with pytest.raises(RequestError, match=f"Not on this machine.* Fetch them:  mobilenets-tf fetch {command}$"):
            create_model(network, **{"weights": "imagenet"} | options)
    with pytest.raises(RequestError, match="alpha=0.6; there are for alpha"):
        create_model("mobilenet_v1", alpha=0.6, weights="imagenet")


def test_a_damaged_package_file_is_noticed(monkeypatch, tmp_path):
    fake = tmp_path / "efficientnet-lite0.pth"
    fake.write_bytes(b"not it")
    monkeypatch.setattr(catalog, "locate", lambda record: fake)
    with pytest.raises(RequestError, match="its digest is sha256:.*expected sha256:57934.*mobilenets-tf fetch effic"):
        create_model("efficientnet_lite0", weights="imagenet")


def test_catalog_records_are_complete():
    for record in catalog.CATALOG:
        assert record.licence and record.source and record.url.startswith("https://")
        assert bool(record.restrictions) == (not record.licence.startswith(("Apache", "BSD")))
        assert len(record.labels) == record.classes
    assert len({record.filename for record in catalog.CATALOG}) == len(catalog.CATALOG)
    labels = catalog.CATALOG[0].labels
    assert (labels[0], labels[281], labels[999]) == ("tench", "tabby", "toilet tissue")
    assert len(set(labels)) == 1000


# ------------------------------------------------------------------------------------------ whole models of users
def plain_model():
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_stock_models_load(tmp_path, suffix):
    model = plain_model()
    model.save(tmp_path / f"model{suffix}")
    image = np.ones((1, 8, 8, 3), np.float32)
    np.testing.assert_array_equal(load_model(tmp_path / f"model{suffix}")(image), model(image))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_lambda_layers_are_refused(tmp_path, suffix):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / f"model{suffix}")
    with pytest.raises(RequestError, match="Lambda"):
        load_model(tmp_path / f"model{suffix}")


def tamper(path, edit):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(entries["config.json"])
    edit(config)
    entries["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("module", "name"), [("keras.utils", "get_file"), ("os", "system"), ("builtins", "eval"), ("mine", "Layer")]
)
def test_configurations_that_name_other_things_are_refused(tmp_path, module, name):
    plain_model().save(tmp_path / "model.keras")

    def edit(config):
        config["config"]["layers"][1].update(module=module, class_name=name)

    tamper(tmp_path / "model.keras", edit)
    with pytest.raises(RequestError, match=name):
        load_model(tmp_path / "model.keras")


@pytest.mark.parametrize(
    "node",
    [
        {"class_name": "function", "module": "keras", "config": "config.set_floatx"},
        {"class_name": "function", "module": "keras.layers", "config": "TFSMLayer"},
        {"class_name": "function", "module": "builtins", "config": "eval"},
        {"class_name": "Switch", "module": "keras.src.ops.core"},
        {"class_name": "StringLookup", "module": "keras.layers", "config": {"vocabulary": "/etc/passwd"}},
        {"class_name": "Layer", "module": "keras.layersevil"},
        {"class_name": "ops.Cond", "module": "keras.ops"},
        {"class_name": [], "module": "keras.layers"},
        {"compile_config": {"loss": {"class_name": "Lambda", "module": "keras.layers"}}},
    ],
)
def test_what_a_configuration_may_not_hide(tmp_path, node):
    """Each was found to reach a function of the file's choosing, or to crash the reader."""
    plain_model().save(tmp_path / "model.keras")
    tamper(tmp_path / "model.keras", lambda config: config["config"]["layers"][1]["config"].update(hidden=[node]))
    with pytest.raises(RequestError, match=r"refused|not one of Keras' own|damaged"):
        load_model(tmp_path / "model.keras")


def test_hdf5_with_a_cycle_is_read_to_its_end(tmp_path):
    import h5py

    plain_model().save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "a") as file:
        file["model_weights/loop"] = file["model_weights"]
        for level in range(40):  # two ways to each level: 2^40 paths
            group = file.create_group(f"chain{level}")
            if level:
                file[f"chain{level - 1}/left"] = file[f"chain{level - 1}/right"] = group
    assert load_model(tmp_path / "model.h5").count_params() == 112


def test_files_that_are_no_models(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(RequestError, match="damaged or not a .keras file"):
        load_model(tmp_path / "model.keras")
    plain_model().save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(RequestError, match="weights alone"):
        load_model(tmp_path / "model.weights.h5")
    with pytest.raises(RequestError, match="No such model file"):
        load_model(tmp_path / "absent.keras")


@pytest.mark.parametrize(
    ("network", "alpha", "build"),
    [
        pytest.param("mobilenet_v1", 0.25, keras.applications.MobileNet, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", 0.35, keras.applications.MobileNetV2, marks=pytest.mark.slow),
        ("mobilenet_v3_small", 0.75, keras.applications.MobileNetV3Small),
    ],
)
def test_addresses_are_those_that_keras_uses(network, alpha, build, monkeypatch):
    from keras.src.utils import file_utils

    class Told(Exception):
        pass

    def get_file(fname, origin, cache_subdir, file_hash=None):
        raise Told(fname, origin, f"md5:{file_hash}" if file_hash else "")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    with pytest.raises(Told) as told:
        build(input_shape=(224, 224, 3), alpha=alpha, weights="imagenet")
    record = catalog.find(network, "imagenet", alpha)
    assert told.value.args == (record.filename, record.url, record.digest)


def test_digests_are_those_that_keras_knows():
    from keras.src.applications.mobilenet_v3 import WEIGHTS_HASHES

    known = {f"weights_mobilenet_v3_{name}.h5": f"md5:{hashes[0]}" for name, hashes in WEIGHTS_HASHES.items()}
    assert known == {record.filename: record.digest for record in catalog.CATALOG if record.filename in known}
