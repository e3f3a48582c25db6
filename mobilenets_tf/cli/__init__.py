"""The command line: ``mobilenets-tf VERB``. One file a verb; each has HELP, EXAMPLE, add_arguments and run.

Exit status: 0 done, 1 a check failed (parity, agreement), 2 the request was wrong, 128 and the signal's number where a
signal ended the command: 130 for Ctrl-C, 143 for SIGTERM.
"""

import argparse
import importlib
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager

from mobilenets_tf.errors import ConversionError, RequestError
from mobilenets_tf.progress import printable
from mobilenets_tf.worker import WorkerError

VERBS = (
    "list",
    "info",
    "fetch",
    "train",
    "deploy",
    "report",
    "export",
    "qat",
    "sensitivity",
    "verify",
    "arm64",
    "gpu",
    "evaluate",
    "predict",
    "benchmark",
    "latency",
    "search",
    "inspect",
    "doctor",
)


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        with _signals_interrupt():
            return _run(words)
    except (RequestError, ConversionError, WorkerError) as error:
        print(printable(f"mobilenets-tf: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        number = getattr(interruption, "signal_number", signal.SIGINT)
        print("mobilenets-tf: interrupted; no file was left half-written.", file=sys.stderr)
        return 128 + number


def _run(words: list[str] | None) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # quiet by default
    for stream in (sys.stdout, sys.stderr):  # a letter that the terminal's encoding lacks is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    modules = {verb: importlib.import_module(f"mobilenets_tf.cli.{verb}") for verb in VERBS}
    arguments = _parser(modules).parse_args(words)
    warnings.showwarning = _Warnings().show
    return modules[arguments.verb].run(arguments) or 0


class _Terminated(KeyboardInterrupt):
    """A signal that asks the command to end."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextmanager
def _signals_interrupt():
    """Let the signals that systems and terminals send to end a process do what Ctrl-C does: everything that runs is
    ended, and temporary files are removed. Only where nobody has another use for the signal, as nohup has."""

    def interrupt(number, frame):
        signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the cleaning
        raise _Terminated(number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    in_main = threading.current_thread() is threading.main_thread()  # the only thread that may set handlers
    numbers = [number for number in numbers if in_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


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


class _Warnings:
    """Shows each warning once: two options may name one folder."""

    def __init__(self):
        self._shown: set[str] = set()

    def show(self, message, category, *_, **__):
        text = printable(f"warning: {message}")
        if issubclass(category, UserWarning) and text not in self._shown:
            self._shown.add(text)
            print(text, file=sys.stderr)
