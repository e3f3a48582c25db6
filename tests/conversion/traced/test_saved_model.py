"""A SavedModel folder is data: its graph is read, checked and frozen, and nothing of the folder is run."""

import os
import shutil
import warnings

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from mobilenets_tf.conversion.frozen_graph import run_frozen
from mobilenets_tf.conversion.traced.saved_model import FILE, frozen_saved_model
from mobilenets_tf.errors import RequestError

v1 = tf.compat.v1
PIXELS = tf.TensorSpec((None, None, None, 3), tf.float32, "image")


class TwoConvolutions(tf.Module):
    """Its variables have the same name, one of them twice the shape, and one value is no variable."""

    def __init__(self):
        random = np.random.default_rng(0)
        self.first = tf.Variable(random.normal(size=(3, 3, 3, 4)).astype("float32"), name="kernel")
        self.others = [tf.Variable(random.normal(size=(3, 3, 4, 4)).astype("float32"), name="kernel") for _ in range(2)]
        self.term = tf.constant(random.normal(size=4).astype("float32"))

    @tf.function(input_signature=[PIXELS])
    def features(self, image):
        image = tf.nn.conv2d(image, self.first, 1, "SAME")
        for kernel in self.others:
            image = tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME"))
        return {"features_10": image + self.term, "features_2": -image}

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32, "image")])
    def scores(self, image):
        return {"scores": tf.nn.softmax(tf.reduce_mean(self.features(image)["features_10"], (1, 2)))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the signatures "features", whose sides are open, and "scores"."""
    module, path = TwoConvolutions(), tmp_path_factory.mktemp("saved") / "module"
    tf.saved_model.save(module, path, {"features": module.features, "scores": module.scores})
    return path


def tf1_folder(path, build):
    """Write a folder as TF1's programs do. ``build``: image -> outputs by their names, in a graph of TF1."""
    with tf.Graph().as_default(), v1.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        outputs = build(image)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"image": image}, outputs)
    return path


def answers(graph, size=8):
    image = np.random.default_rng(1).uniform(-1, 1, (1, size, size, 3)).astype("float32")
    return image, dict(zip([port.name for port in graph.outputs], run_frozen(graph)([image]), strict=True))


@pytest.mark.parametrize("signature, size", [("scores", None), ("features", (8, 12)), ("features", 8)])
def test_a_signature_is_frozen_with_its_names_and_values(folder, signature, size):
    graph = frozen_saved_model(folder, signature, size)
    (port,) = graph.inputs
    assert (port.name, port.shape) == ("image", (1, 8, 12 if size == (8, 12) else 8, 3)) and graph.kind == "SavedModel"
    image = np.random.default_rng(1).uniform(-1, 1, port.shape).astype("float32")
    wanted = tf.saved_model.load(folder).signatures[signature](image=tf.constant(image))
    names = ["scores"] if signature == "scores" else ["features_2", "features_10"]  # in the order of their numbers
    assert [each.name for each in graph.outputs] == names
    for name, found in zip(names, run_frozen(graph)([image]), strict=True):
        np.testing.assert_allclose(found, wanted[name], atol=1e-4)


def test_the_same_folder_gives_the_same_bytes(folder):
    assert frozen_saved_model(folder, "scores") == frozen_saved_model(folder, "scores")


def of_variables(image):
    """Both kinds of TF1's variables, a switch that is off unless somebody feeds it, and a check."""
    old = v1.get_variable("old/w", (3, 3, 3, 4), use_resource=False)
    new = v1.get_variable("new/b", (4,), use_resource=True, initializer=v1.random_normal_initializer())
    training = v1.placeholder_with_default(False, (), "training")
    with tf.control_dependencies([v1.assert_greater(image, -10.0)]):
        x = tf.nn.bias_add(tf.nn.conv2d(image, old, 2, "SAME"), new)
    v1.disable_control_flow_v2()
    x = v1.cond(training, lambda: x * 0, lambda: x)
    v1.enable_control_flow_v2()
    return {"scores": tf.nn.softmax(tf.reduce_mean(x, (1, 2)))}


def test_tf1(tmp_path):
    graph = frozen_saved_model(tf1_folder(tmp_path / "tf1", of_variables))
    image, found = answers(graph)
    wanted = tf.saved_model.load(tmp_path / "tf1").signatures["serving_default"](image=tf.constant(image))
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-5)


def test_tf1_with_edges_to_the_input_that_carry_no_values(tmp_path):
    """A control edge from the input; and a condition, whose switches stand on the device of the input."""

    def build(image):
        with tf.control_dependencies([image]):
            term = tf.constant([1.0, 2.0, 3.0]) * 2
        v1.disable_control_flow_v2()
        x = v1.cond(v1.placeholder_with_default(False, (), "training"), lambda: image * 0, lambda: image + term)
        v1.enable_control_flow_v2()
        return {"scores": tf.reduce_mean(x, (1, 2))}

    image, found = answers(frozen_saved_model(tf1_folder(tmp_path / "tf1", build)))
    np.testing.assert_allclose(found["scores"], image.mean((1, 2)) + np.float32([2, 4, 6]), atol=1e-5)


def test_tf1_with_an_input_that_nothing_reads_and_one_that_is_an_output(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        image, unread = (v1.placeholder(tf.float32, (None, 8, 8, 3), name) for name in ("input", "unread"))
        outputs = {"double": image * 2, "same": image}
        v1.saved_model.simple_save(session, str(tmp_path / "tf1"), {"image": image, "unread": unread}, outputs)
    graph = frozen_saved_model(tmp_path / "tf1")
    assert [port.name for port in graph.inputs + graph.outputs] == ["image", "unread", "double", "same"]
    sample = np.random.default_rng(1).uniform(-1, 1, (1, 8, 8, 3)).astype("float32")
    double, same = run_frozen(graph)([sample, sample + 1])
    np.testing.assert_array_equal(double, 2 * sample)
    np.testing.assert_array_equal(same, sample)


def test_folders_whose_functions_have_the_same_names(tmp_path):
    """The functions of all graphs of a process are in one namespace."""

    def checked(limit):
        def build(image):
            with tf.control_dependencies([tf.debugging.assert_greater(image, limit)]):
                return {"scores": tf.reduce_mean(image, (1, 2)) - limit}

        return build

    for limit in (-2.0, -3.0):
        folder = tf1_folder(tmp_path / str(limit), checked(limit))
        for _ in range(2):
            image, found = answers(frozen_saved_model(folder))
            np.testing.assert_allclose(found["scores"], image.mean((1, 2)) - limit, atol=1e-6)


def test_values_are_those_that_the_saver_restores(tmp_path):
    """Not those that have the variable's own name: here each variable was saved under the other's name."""

    def build(image):
        one, two = (v1.get_variable(name, (3,), initializer=v1.random_normal_initializer()) for name in "ab")
        swapped.append(v1.train.Saver({"a": two, "b": one}))
        v1.train.Saver()
        return {"sum": tf.reduce_mean(image * one + tf.nn.relu(image) * two, (1, 2))}

    # The graph has a second saver, after the one that the folder names.
    swapped = []
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3))
        outputs = build(image)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(tmp_path / "swapped"))
        signature = v1.saved_model.predict_signature_def({"image": image}, outputs)
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, saver=swapped[0])
        builder.save()
    image, found = answers(frozen_saved_model(tmp_path / "swapped"))
    wanted = tf.saved_model.load(tmp_path / "swapped").signatures["serving_default"](image=tf.constant(image))
    np.testing.assert_allclose(found["sum"], wanted["sum"], atol=1e-6)


def of_partitioned_variables(image):
    """Variables in parts of unequal sizes: of both kinds, along the first, a middle and the last dimension."""
    term = v1.get_variable("term", (7,), partitioner=v1.fixed_size_partitioner(3))
    old = v1.get_variable("old", (3, 3, 5, 7), partitioner=v1.fixed_size_partitioner(2, axis=3), use_resource=False)
    new = v1.get_variable("new", (1, 1, 3, 5), partitioner=v1.fixed_size_partitioner(2, axis=2), use_resource=True)
    whole = v1.get_variable("whole", (7,), initializer=v1.random_normal_initializer())
    x = tf.nn.conv2d(image, tf.convert_to_tensor(new), 1, "SAME")
    x = tf.nn.conv2d(x, tf.convert_to_tensor(old), 2, "SAME") + tf.convert_to_tensor(term) + whole
    return {"scores": tf.reduce_mean(x, (1, 2))}


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory):
    return tf1_folder(tmp_path_factory.mktemp("partitioned") / "tf1", of_partitioned_variables)


def test_partitioned_variables_of_tf1(partitioned):
    """The checkpoint has one key for all parts of a variable."""
    image, found = answers(frozen_saved_model(partitioned))
    wanted = tf.saved_model.load(partitioned).signatures["serving_default"](image=tf.constant(image))
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-5)


@pytest.mark.parametrize(
    "part, said",
    [
        (b"8 0,3", r"'term' has the shape \[7\], of which '8 0,3' is no part"),
        (b"7 0,2", r"the variable 'term/part_0' is float32 \[3\], its values are float32 \[2\]"),
        (b"7 6,3", r"the variable 'term/part_0' is float32 \[3\], its values are float32 \[1\]"),
        (b"7 x", "damaged SavedModel folder .ValueError"),
        (b"7 0,3:0,3", "damaged SavedModel folder .ValueError"),
    ],
)
def test_damaged_parts_are_refused(partitioned, tmp_path, part, said):
    def change(meta):
        for node in meta.graph_def.node:
            texts = node.attr["value"].tensor.string_val if node.op == "Const" else ()
            if b"7 0,3" in texts:
                texts[list(texts).index(b"7 0,3")] = part

    shutil.copytree(partitioned, tmp_path / "copy")
    changed(tmp_path / "copy", change)
    with pytest.raises(RequestError, match=said):
        frozen_saved_model(tmp_path / "copy")


def test_a_graph_that_is_not_for_inference_is_refused(folder, tmp_path):
    saved = saved_model_pb2.SavedModel.FromString((folder / FILE).read_bytes())
    saved.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    (tmp_path / FILE).write_bytes(saved.SerializeToString())
    with pytest.raises(RequestError, match=r"no graph for inference, .* the tags are \['train'\]"):
        frozen_saved_model(tmp_path)


def test_a_file_larger_than_a_graph_is_not_read(tmp_path):
    with open(tmp_path / FILE, "wb") as file:
        file.truncate(9 * 10**9)  # takes no space: it has no content
    with pytest.raises(RequestError, match="saved_model.pb takes 9000000000 bytes; a graph takes at most 2147483647"):
        frozen_saved_model(tmp_path)


def reads(image):
    return {"scores": tf.reduce_mean(image) + tf.strings.to_number(tf.io.read_file("/etc/hostname"))}


def writes(image):
    """In a function that a function calls, in front of the result."""

    @tf.function
    def inner(x):
        with tf.control_dependencies([tf.io.write_file("written", "x")]):
            return x * 2

    return {"scores": tf.function(lambda x: inner(x) + 1)(tf.reduce_mean(image, (1, 2)))}


def calls_python(image):
    return {"scores": tf.py_function(lambda x: x, [image], tf.float32)}


def numpy_function(image):
    return {"scores": tf.numpy_function(lambda x: x, [image], tf.float32, stateful=False)}


def prints(image):
    with tf.control_dependencies([tf.print("x", output_stream="file://written")]):
        return {"scores": image * 2}


def loops(image):
    return {"scores": tf.while_loop(lambda x: tf.reduce_sum(x) < 1e9, lambda x: (x * 2,), [image])[0]}


def looks_up(image):
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([0], [1]), 0)
    return {"scores": tf.cast(table.lookup(tf.cast(image, tf.int32)), tf.float32)}


def is_random(image):
    return {"scores": image + tf.random.uniform((8,))[0]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "build, said",
    [
        (
            reads,
            r"ReadFile \('.*'\) is not one that computes numbers from numbers alone.*Refused too: StringToNumber",
        ),
        (writes, "WriteFile"),
        (calls_python, "EagerPyFunc .* calls Python of the program"),
        (numpy_function, "PyFuncStateless .* calls Python"),
        (prints, "PrintV2"),
        (loops, ".*While .* runs a loop, as LSTM"),
        (looks_up, "HashTableV2 .* looks values up in a table"),
        (is_random, "RandomUniform .* draws random values"),
    ],
)
def test_what_does_more_than_compute_is_refused_before_anything_runs(tmp_path, monkeypatch, build, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "folder"
    with tf.Graph().as_default() as around:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        ((name, output),) = build(image).items()
        signature = v1.saved_model.predict_signature_def({"image": image}, {name: output})
        write(path, around.as_graph_def(), signature)
    with pytest.raises(RequestError, match=f"folder: the operator {said}"):
        frozen_saved_model(path)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "made",
    [
        lambda: tf.fill([200_000, 200_000], 0.5),
        lambda: tf.range(0.0, 2_000_000_000.0),
        lambda: tf.tile(tf.ones([1, 1]), [300_000, 300_000]),
        lambda: tf.function(lambda: tf.one_hot(tf.range(100_000), 100_000))(),
    ],
    ids=["Fill", "Range", "Tile", "OneHot"],
)
def test_values_that_no_phone_has_room_for_are_refused_by_operator(tmp_path, made):
    with tf.Graph().as_default() as around:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "input")
        scores = tf.reduce_mean(image, (1, 2)) + tf.reduce_mean(made())
        signature = v1.saved_model.predict_signature_def({"image": image}, {"scores": scores})
        write(tmp_path / "folder", around.as_graph_def(), signature)
    with pytest.raises(RequestError, match=r"folder: the operator \w+ \('.*'\) makes values of the shape.* GB"):
        frozen_saved_model(tmp_path / "folder")


def write(path, graph_def, signature, **entries):
    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta = saved.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.graph_def.CopyFrom(graph_def)
    meta.signature_def["serving_default"].CopyFrom(signature)
    path.mkdir()
    (path / FILE).write_bytes(saved.SerializeToString())


@pytest.mark.filterwarnings("ignore")
def test_initialisers_and_restoring_are_not_run(tmp_path, monkeypatch):
    """TensorFlow's own loader would run them."""
    monkeypatch.chdir(tmp_path)

    def build(image):
        write_it = tf.io.write_file("written", "x")
        v1.add_to_collection("saved_model_main_op", tf.group(write_it, name="main"))
        return {"scores": tf.reduce_mean(image, (1, 2))}

    path = tf1_folder(tmp_path / "tf1", build)
    changed(path, lambda meta: setattr(meta.saver_def, "restore_op_name", "WriteFile"))
    answers(frozen_saved_model(path))
    assert not (tmp_path / "written").exists()


def changed(path, change):
    """Change a folder's first graph."""
    saved = saved_model_pb2.SavedModel.FromString((path / FILE).read_bytes())
    change(saved.meta_graphs[0])
    (path / FILE).write_bytes(saved.SerializeToString())


def call_itself(meta):
    for function in meta.graph_def.library.function:
        node = function.node_def.add()
        node.name, node.op = "again", "PartitionedCall"
        node.attr["f"].func.name = function.signature.name


def call_each_other(meta):
    """30 functions, each of which calls the next one twice: 2^30 calls."""
    functions = meta.graph_def.library.function
    given = list(functions)
    for number in range(30):
        function = functions.add()
        function.signature.name = f"f{number}"
        for twice in "ab":
            node = function.node_def.add()
            node.name, node.op = twice, "PartitionedCall"
            node.attr["f"].func.name = f"f{number + 1}"
    functions.add().signature.name = "f30"
    functions[-1].node_def.add().op = "NoOp"
    for function in given:
        node = function.node_def.add()
        node.name, node.op = "many", "PartitionedCall"
        node.attr["f"].func.name = "f0"


def grow(meta):
    """25,000 operators, one after the other, before the result."""
    entry = meta.signature_def["scores"].outputs["scores"]
    for number in range(25_000):
        node = meta.graph_def.node.add()
        node.name, node.op = f"n{number}", "Identity"
        node.input.append(f"n{number - 1}" if number else entry.name)
    entry.name = "n24999:0"


def name_an_input_often(meta):
    inputs = meta.signature_def["scores"].inputs
    for number in range(1000):
        inputs[f"image{number}"].CopyFrom(inputs["image"])


def lose_a_node(meta):
    for each in list(meta.graph_def.node):
        if each.op == "VarHandleOp":
            meta.graph_def.node.remove(each)


def lose_the_objects(meta):
    meta.object_graph_def.Clear()


def lie_about_a_shape(meta):
    for node in meta.graph_def.node:
        if node.op == "VarHandleOp":
            node.attr["shape"].shape.dim[0].size = 2**40


def lie_about_places(meta):
    for function in meta.object_graph_def.concrete_functions.values():
        function.bound_inputs[:] = [10**6] * len(function.bound_inputs)


@pytest.mark.parametrize(
    "change, said",
    [
        (call_itself, "calls itself"),
        (call_each_other, "call each other so often"),
        (grow, "more than 25000 nodes"),
        (name_an_input_often, "1002 inputs and outputs; at most 1000"),
        (lose_a_node, "damaged SavedModel folder: the node 'kernel.*' is missing"),
        (lose_the_objects, "no values of the variable 'kernel"),
        (lie_about_a_shape, "the variable 'kernel.*' is float32"),
        (lie_about_places, "no values of the variable"),
        (lambda meta: meta.signature_def.clear(), "no signature that gives outputs"),
        (lambda meta: meta.graph_def.Clear(), "is missing"),
    ],
)
def test_damaged_folders_are_refused(folder, tmp_path, change, said):
    shutil.copytree(folder, tmp_path / "copy")
    changed(tmp_path / "copy", change)
    with pytest.raises(RequestError, match=said):
        frozen_saved_model(tmp_path / "copy", "scores" if "signature" not in said else None)


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "copy")
    place = tmp_path / "copy" / "variables" / name
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(RequestError, match=f"copy is a damaged SavedModel folder: variables/{name} is no file"):
        frozen_saved_model(tmp_path / "copy", "scores")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "name, damage",
    [
        (FILE, cut),
        (FILE, lambda path: path.write_bytes(b"")),
        (FILE, lambda path: path.write_bytes(b"\xff" * 100)),
        ("variables/variables.index", cut),
        ("variables/variables.index", lambda path: path.unlink()),
        ("variables/variables.data-00000-of-00001", cut),
        ("variables/variables.data-00000-of-00001", lambda path: path.write_bytes(b"")),
    ],
)
def test_damaged_files_are_refused_in_one_line(folder, tmp_path, name, damage):
    shutil.copytree(folder, tmp_path / "copy")
    damage(tmp_path / "copy" / name)
    with pytest.raises(RequestError, match="copy.*damaged SavedModel folder|copy: the variables up to") as caught:
        frozen_saved_model(tmp_path / "copy", "scores")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "signature, size, said",
    [
        (None, None, "has the signatures 'features', 'scores': name one with --signature"),
        ("score", None, "Unknown signature 'score'. Did you mean 'scores'"),
        ("features", None, r"'image' has the shape \(1, None, None, 3\).*Pass --resolution"),
        ("features", 0, "--resolution 0x0 .*at least 1"),
        ("scores", 16, r"--resolution 16x16 .* has the fixed shape \(1, 8, 8, 3\)"),
    ],
)
def test_what_a_request_lacks_is_said(folder, signature, size, said):
    with pytest.raises(RequestError, match=said):
        frozen_saved_model(folder, signature, size)


def test_a_value_that_nobody_gives_is_named(tmp_path):
    with tf.Graph().as_default() as around:
        image, other = v1.placeholder(tf.float32, (1, 8, 8, 3), "a"), v1.placeholder(tf.float32, (), "strength")
        signature = v1.saved_model.predict_signature_def({"image": image}, {"scores": image * other})
        write(tmp_path / "folder", around.as_graph_def(), signature)
    with pytest.raises(RequestError, match="need the input 'strength', which the signature does not have"):
        frozen_saved_model(tmp_path / "folder")
