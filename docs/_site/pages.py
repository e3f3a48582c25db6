"""Hooks of mkdocs.yml: the package where the API reference reads it, and the page of the command line."""

import argparse
import importlib
import shutil
from pathlib import Path

from mobilenets_tf import cli

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "build" / "api"
VERBS_HERE = "<!-- verbs -->"


def on_startup(**_) -> None:
    """Lay the package out as it is installed, with ``quantize`` and ``export`` inside: it is read, not imported."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for folder, inside in (("mobilenets_tf", ""), ("quantize", "quantize"), ("export", "export")):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, SOURCE / "mobilenets_tf" / inside, ignore=skip, dirs_exist_ok=True)


def on_page_markdown(markdown: str, page, **_) -> str:
    """Put the help of every verb where the page asks for it."""
    return markdown.replace(VERBS_HERE, "\n\n".join(map(_help, cli.VERBS))) if VERBS_HERE in markdown else markdown


def _help(verb: str) -> str:
    module = importlib.import_module(f"mobilenets_tf.cli.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"mobilenets-tf {verb}", formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100)
    )
    module.add_arguments(parser)
    example = f"```\n{module.EXAMPLE}\n```"
    return f"## {verb}\n\n{module.HELP}\n\n{example}\n\n```text\n{parser.format_help()}```"
