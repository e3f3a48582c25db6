"""Options that mean the same have the same name in all verbs."""

import argparse
import importlib

import pytest

from mobilenets_tf.cli import VERBS, main
from mobilenets_tf.cli.options import add_size
from mobilenets_tf.modelsource import ModelSource


def options(verb):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"mobilenets_tf.cli.{verb}").add_arguments(parser)
    return {option for action in parser._actions for option in action.option_strings}


def test_annotated_data_have_one_name_for_what_a_verb_works_on_and_one_for_what_it_judges_with():
    names = {verb: options(verb) for verb in VERBS}
    having = {option: {verb for verb in VERBS if option in names[verb]} for option in set().union(*names.values())}
    assert having["--data"] == {"train", "qat", "evaluate", "search"}
    assert having["--evaluate"] == {"train", "qat", "deploy", "report", "sensitivity", "search"}
    assert having["--images"] == {"verify"}  # which need no annotations
    assert "--validation" not in having


@pytest.mark.parametrize(
    "verb", ["train", "qat", "deploy", "report", "export", "sensitivity", "evaluate", "predict", "search"]
)
def test_every_verb_that_takes_photographs_takes_their_preprocessing(verb):
    assert {"--mean", "--std", "--crop", "--resize", "--interpolation", "--labels"} <= options(verb)


@pytest.mark.parametrize("text, expected", [("224", 224), ("192x256", (192, 256)), ("96X64", (96, 64))])
def test_a_resolution_is_one_number_or_height_and_width(text, expected):
    parser = argparse.ArgumentParser()
    add_size(parser)
    assert parser.parse_args(["--resolution", text]).resolution == expected
    source = ModelSource("mobilenet_v2", resolution=expected)
    assert parser.parse_args(source.options().split()[1:]).resolution == expected


def test_a_resolution_that_is_none_is_refused(capsys):
    assert ModelSource("mobilenet_v2", resolution=(96, 96)).resolution == 96
    for text in ("12x", "a", "1x2x3", "-3"):
        with pytest.raises(SystemExit):
            main(["export", "net.keras", f"--resolution={text}", "--out", "net.tflite"])
        assert f"{text!r}: expected a number of pixels, or height x width as in 192x256" in capsys.readouterr().err
    assert main(["deploy", "mobilenet_v2", "--resolution", "16x64", "--calibration", "demo", "--out", "x"]) == 2
    assert "resolution=(16, 64) is out of range: 32 to 2048" in capsys.readouterr().err
