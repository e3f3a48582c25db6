"""What TensorFlow Lite Micro can run."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import ConversionError, RequestError
from mobilenets_tf.export.micro import interpreter
from mobilenets_tf.export.micro.operators import RESOLVER, check_operators, missing_operators, resolver_calls
from mobilenets_tf.tflite import flatbuffer


def test_the_calls_that_register_a_files_ops(small_files):
    calls = resolver_calls(small_files["int8"].content)
    assert {"AddConv2D", "AddDepthwiseConv2D", "AddSoftmax"} <= set(calls) <= set(RESOLVER.values())
    assert calls == sorted(set(calls))
    check_operators(small_files["int8"].content)


@pytest.fixture(scope="module")
def gelu(float_file):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="first")(inputs)
    x = layers.Activation("gelu", name="bent")(x)
    return float_file(keras.Model(inputs, layers.Conv2D(2, 1, name="second")(x)))


def test_an_op_that_it_lacks_is_named_with_its_layer_and_a_remedy(gelu):
    (missing,) = missing_operators(gelu, {"first", "bent", "second"})
    assert (missing.name, missing.layers) == ("GELU", ("bent",))
    with pytest.raises(ConversionError, match="no kernel for GELU of bent: use another activation"):
        check_operators(gelu, {"first", "bent", "second"})


def test_without_layers_the_tensor_is_named(gelu):
    (missing,) = missing_operators(gelu)
    assert missing.layers and missing.layers[0]


@pytest.mark.slow
def test_the_table_is_that_of_the_installed_interpreter(small_files):
    """The file's last op becomes each op of TFLite in turn; the interpreter says of which it has no registration."""
    pytest.importorskip("tflite_micro", reason="pip install 'mobilenets-tf[micro]'")
    schema, tree = flatbuffer.schema, flatbuffer.read(small_files["int8"].content)
    (code,) = [code for code in tree.operatorCodes if flatbuffer.code_name(code) == "SOFTMAX"]
    sample = [np.zeros((1, 64, 64, 3), np.int8)]
    lacking = set()
    for name, number in vars(schema.BuiltinOperator).items():
        if not isinstance(number, int) or name.startswith(("CUSTOM", "DELEGATE", "PLACEHOLDER", "STABLEHLO", "VAR_")):
            continue
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        try:
            interpreter.outputs(flatbuffer.write(tree), [sample])
        except RequestError as error:
            if "find op for builtin opcode" in str(error) or "Failed to get registration" in str(error):
                lacking.add(name)
    builtin = {name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    assert not lacking & set(RESOLVER)
    assert {"GELU", "TILE", "POW", "TOPK_V2", "HASHTABLE"} <= lacking and len(builtin - lacking) < len(builtin)
