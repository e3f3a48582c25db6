"""The command line: ``mobilenets-tf VERB``. One file a verb; each has HELP, EXAMPLE, add_arguments and run.

Exit status: 0 done, 1 a check failed (parity, agreement), 2 the request was wrong, 130 interrupted.
"""

import argparse
import importlib
import os
import sys
import warnings

from mobilenets_tf.errors import ConversionError, RequestError
from mobilenets_tf.worker import WorkerError

VERBS = (
    "list",
    "info",
    "train",
    "deploy",
    "report",
    "export",
    "qat",
    "sensitivity",
    "verify",
    "arm64",
    "evaluate",
    "predict",
    "benchmark",
    "inspect",
    "doctor",
)


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # quiet by default
    modules = {verb: importlib.import_module(f"mobilenets_tf.cli.{verb}") for verb in VERBS}
    arguments = _parser(modules).parse_args(words)
    warnings.showwarning = _show_warning
    try:
        return modules[arguments.verb].run(arguments) or 0
    except (RequestError, ConversionError, WorkerError) as error:
        print(f"mobilenets-tf: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mobilenets-tf: interrupted; no file was left half-written.", file=sys.stderr)
        return 130


def _parser(modules) -> argparse.ArgumentParser:
    from mobilenets_tf.version import __version__

    parser = _ExampleFirstParser(
        prog="mobilenets-tf",
        usage="mobilenets-tf VERB ...",
        description=modules["deploy"].EXAMPLE
        + "\n\nSmall vision networks, quantised and exported for Android with proof.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_ExampleFirstParser)
    for name, module in modules.items():
        verb = verbs.add_parser(
            name, prog=f"mobilenets-tf {name}", help=module.HELP, description=f"{module.EXAMPLE}\n\n{module.HELP}"
        )
        module.add_arguments(verb)
    return parser


class _ExampleFirstParser(argparse.ArgumentParser):
    """Its help begins with an example; the usage comes after it."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def format_help(self):
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        return formatter.format_help()


def _show_warning(message, category, *_, **__):
    if issubclass(category, UserWarning):
        print(f"warning: {message}", file=sys.stderr)
