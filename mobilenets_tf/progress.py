"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing unless asked for."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized

# Called with the name of the work, the number of items done, and the number of all items (None: not known).
Progress = Callable[[str, int, "int | None"], None]


def printable(text: str) -> str:
    """Escape everything that a terminal would not show as it is. Names of files, classes and layers are not ours, and
    may contain commands for the terminal. Line breaks stay.
    """
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


def silent(label: str, done: int, total: int | None) -> None:
    """Report nothing; the default."""


def track(items: Iterable, label: str, progress: Progress, total: int | None = None) -> Iterator:
    """Yield ``items``, and report after each item."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    progress(label, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        progress(label, done, total)


class Display:
    """A ``Progress`` for people, on standard error. Use as a context manager, so that the bar is removed.

    Where standard error is no terminal, there is a line when each kind of work begins and when it first ends, and
    otherwise one every ten seconds.
    """

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self):
        self._bar, self._tasks = None, {}
        self._begun: set[str] = set()
        self._ended: set[str] = set()
        self._next_line = 0.0

    def __enter__(self):
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def __call__(self, label: str, done: int, total: int | None) -> None:
        if self._bar:
            if label not in self._tasks:
                from rich.markup import escape

                self._tasks[label] = self._bar.add_task(escape(printable(label)), total=total)
            self._bar.update(self._tasks[label], completed=done, total=total)
            return
        now, ends = time.monotonic(), done == total
        if label not in self._begun or (ends and label not in self._ended) or now >= self._next_line:
            of = f" {done}/{total}" if total else (f" {done}" if done else "")
            print(f"{printable(label)}{of}", file=sys.stderr, flush=True)
            self._next_line = now + self.SECONDS_BETWEEN_LINES
        self._begun.add(label)
        if ends:
            self._ended.add(label)
