"""Options that mean the same have the same name in all verbs."""

import argparse
import importlib

import pytest

from mobilenets_tf.cli import VERBS


def options(verb):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"mobilenets_tf.cli.{verb}").add_arguments(parser)
    return {option for action in parser._actions for option in action.option_strings}


def test_annotated_data_have_one_name_for_what_a_verb_works_on_and_one_for_what_it_judges_with():
    names = {verb: options(verb) for verb in VERBS}
    having = {option: {verb for verb in VERBS if option in names[verb]} for option in set().union(*names.values())}
    assert having["--data"] == {"train", "qat", "evaluate"}
    assert having["--evaluate"] == {"train", "qat", "deploy", "report", "sensitivity"}
    assert having["--images"] == {"verify"}  # which need no annotations
    assert "--validation" not in having


@pytest.mark.parametrize("verb", ["train", "qat", "deploy", "report", "export", "sensitivity", "evaluate", "predict"])
def test_every_verb_that_takes_photographs_takes_their_preprocessing(verb):
    assert {"--mean", "--std", "--crop", "--resize", "--interpolation", "--labels"} <= options(verb)
