"""The text that LiteRT's ``benchmark_model`` prints, read into numbers.

The text comes from a phone and is not trusted: lines are cut at a bound, searched for the patterns that the tool is
known to print, and shown without control characters.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mobilenets_tf.export.speed.op_profile import Op

MOST_LINE = 1000  # characters of a line that are read
_MOST_ERRORS = 20


@dataclass(frozen=True)
class RunStatistics:
    """Statistics of the times of several runs, in milliseconds. None: this version of the tool does not print it."""

    average_ms: float
    count: int | None = None
    first_ms: float | None = None
    least_ms: float | None = None
    most_ms: float | None = None
    deviation_ms: float | None = None
    p5_ms: float | None = None
    median_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True)
class Delegate:
    """What the tool prints about a delegate. None: the tool does not print it.

    executes: whether the delegate executes the graph: "completely", "partially" or "not".
    nodes, of: the delegate runs ``nodes`` of ``of`` ops. partitions: the number of parts that these ops form.
    """

    name: str
    executes: str | None = None
    nodes: int | None = None
    of: int | None = None
    partitions: int | None = None


@dataclass(frozen=True)
class ToolOutput:
    """The figures that one run of the tool printed. None: the tool did not print the figure.

    init_ms: time to load the file and prepare it. warm_up: the runs that do not count. inference: the runs that count;
        None if the tool stopped before them.
    init_memory_mb, memory_mb, peak_memory_mb: memory in MB that the tool's process gained since its start: after the
        preparation, at the end, and at the most.
    ops: the profile, in the order in which the ops ran. ignored: flags that the tool does not know.
    errors: its first error messages.
    """

    init_ms: float | None
    warm_up: RunStatistics | None
    inference: RunStatistics | None
    init_memory_mb: float | None
    memory_mb: float | None
    peak_memory_mb: float | None
    delegates: tuple[Delegate, ...]
    ops: tuple[Op, ...]
    ignored: tuple[str, ...]
    errors: tuple[str, ...]


def parse(text: str) -> ToolOutput:
    """Read what ``benchmark_model`` printed, in any version since 2019, on a terminal or in Android's log.

    A number that is not finite counts as not printed.
    """
    lines = [_Line.of(line) for line in text.splitlines()]
    runs = [statistics for line in lines if (statistics := _statistics(line.text))]
    warm_up, inference = (*runs[:2], None, None)[:2]
    figures: dict[str, float] = {}
    for line in lines:
        for pattern, names, scale in _FIGURES:
            if match := pattern.match(line.text):
                figures |= {name: float(value) / scale for name, value in zip(names, match.groups(), strict=True)}
    figures = {name: round(value, 6) for name, value in figures.items() if math.isfinite(value)}
    # A version that prints no line with all statistics prints lines with single figures.
    warm_up = warm_up or _gathered("warm_up", figures)
    inference = inference or _gathered("inference", figures)
    unconsumed = [line.text[len(_UNCONSUMED) :] for line in lines if line.text.startswith(_UNCONSUMED)]
    return ToolOutput(
        init_ms=figures.get("init"),
        warm_up=warm_up,
        inference=inference,
        init_memory_mb=figures.get("init_memory"),
        memory_mb=figures.get("memory"),
        peak_memory_mb=figures.get("peak_memory"),
        delegates=tuple(_delegates(lines)),
        ops=tuple(_ops(lines)),
        ignored=tuple(flag for flags in unconsumed for flag in flags.split()),
        errors=tuple(line.text for line in lines if line.is_error)[:_MOST_ERRORS],
    )


_UNCONSUMED = "Unconsumed cmdline flags: "
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
# Pattern of a line ("#": a number), the names of its numbers, and the divisor that turns them into ms or MB.
_FIGURES = [
    (re.compile(pattern.replace("#", _NUMBER)), names, scale)
    for pattern, names, scale in (
        (r"Inference timings in us: Init: #, First inference: #, Warmup \(avg\): #, Inference \(avg\): #",
         ("init", "warm_up.first_ms", "warm_up.average_ms", "inference.average_ms"), 1e3),
        (r"Average inference timings in us: Warmup: #, Init: #, (?:no stats|Inference): #",
         ("warm_up.average_ms", "init", "inference.average_ms"), 1e3),
        (r"Initialized session in # ?ms", ("init",), 1),
        (r"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): init=# overall=#",
         ("init_memory", "memory"), 1),
        (r"Overall peak memory footprint \(MB\) via periodic monitoring: #", ("peak_memory",), 1),
        (r"Model initialization: +# ms", ("init",), 1),
        (r"Warmup \(first\): +# ms", ("warm_up.first_ms",), 1),
        (r"Warmup \(avg\): +# ms \(# runs\)", ("warm_up.average_ms", "warm_up.count"), 1),
        (r"Inference \(avg\): +# ms \(# runs\)", ("inference.average_ms", "inference.count"), 1),
        (r"Inference \(min\): +# ms", ("inference.least_ms",), 1),
        (r"Inference \(max\): +# ms", ("inference.most_ms",), 1),
        (r"Inference \(std\): +#", ("inference.deviation_ms",), 1),
        (r"Init footprint: +# MB", ("init_memory",), 1),
        (r"Overall footprint: +# MB", ("memory",), 1),
        (r"Peak memory: +# MB", ("peak_memory",), 1),
    )
]  # fmt: skip


@dataclass(frozen=True)
class _Line:
    text: str
    is_error: bool

    # In Android's log: month-day, time, process, thread, level, tag. On a terminal: level, LiteRT's file and line.
    PREFIX = re.compile(
        r"(?:\d\d-\d\d [\d:.]+ +\d+ +\d+ )?(?:([VDIWEF]) [\w-]+ *: )?(?:(VERBOSE|INFO|WARN(?:ING)?|ERROR|FATAL): )?"
        r"(?:\[\w+\.(?:h|cc):\d+\] )?"
    )

    @classmethod
    def of(cls, line: str) -> "_Line":
        line = line[:MOST_LINE]
        match = cls.PREFIX.match(line)
        level = match[2] or match[1] or ""
        return cls(printable(line[match.end() :].rstrip()), level[:1] in ("E", "F"))


def _statistics(text: str) -> RunStatistics | None:
    """Read a line such as "count=50 first=90 curr=88 min=87 max=95 avg=88.5 std=2 p5=87 median=88 p95=94", in µs."""
    if not re.match(r"count=\d+ ", text):
        return None
    values = {name: float(value) for name, value in re.findall(rf"(\w+)={_NUMBER}", text)}
    if "avg" not in values and "curr" in values:  # for one run, or runs of equal time, the tool prints only "curr"
        values |= dict.fromkeys(("first", "min", "max", "avg"), values["curr"])
    if not all(math.isfinite(values.get(name, math.inf)) for name in ("avg", "count")):
        return None
    names = {
        "average_ms": "avg", "first_ms": "first", "least_ms": "min", "most_ms": "max", "deviation_ms": "std",
        "p5_ms": "p5", "median_ms": "median", "p95_ms": "p95",
    }  # fmt: skip
    times = {
        name: round(values[key] / 1e3, 6) for name, key in names.items() if math.isfinite(values.get(key, math.inf))
    }
    return RunStatistics(count=int(values["count"]), **times)


def _gathered(runs: str, figures: Mapping[str, float]) -> RunStatistics | None:
    """Collect the figures whose names are ``<runs>.<field>``."""
    values = {name.partition(".")[2]: value for name, value in figures.items() if name.startswith(f"{runs}.")}
    if "average_ms" not in values:
        return None
    if "count" in values:
        values["count"] = int(values["count"])
    return RunStatistics(**values)


_APPLIED = re.compile(
    r"(?:Explicitly applied (\w+) delegate, and|Though (\w+) delegate is explicitly applied,) the model graph will "
    r"(?:be )?(completely|partially|not)(?: be)? executed by the delegate(?: w/ (\d+) delegate kernels)?"
)
_REPLACING = re.compile(
    r"Replacing (\d+)(?: out of (\d+))? node\(s\) with delegate \(([^)]*)\) node, yielding (\d+) partitions"
)
_DELEGATED = re.compile(r"(\w+) delegate: (\d+) nodes delegated out of (\d+) nodes with (\d+) partitions")


def _delegates(lines: Sequence[_Line]) -> Iterator[Delegate]:
    for line in lines:
        if match := _APPLIED.match(line.text):
            kernels = match[4] and int(match[4])
            yield Delegate(match[1] or match[2], executes=match[3], partitions=kernels)
        elif match := _REPLACING.match(line.text):
            yield Delegate(match[3], nodes=int(match[1]), of=match[2] and int(match[2]), partitions=int(match[4]))
        elif match := _DELEGATED.match(line.text):
            yield Delegate(match[1], nodes=int(match[2]), of=int(match[3]), partitions=int(match[4]))


def _ops(lines: Sequence[_Line]) -> list[Op]:
    """Read the table "Run Order" of the runs that count. Other tables are for the preparation or for subgraphs.

    The table's columns differ between versions.
    """
    ops, expected, row, average = [], False, None, 0
    for line in lines:
        columns = re.findall(r"\[([^\]]*)\]", line.text)
        if line.text.startswith("Operator-wise Profiling Info"):
            ops = []
        elif re.fullmatch(r"=+ Run Order =+", line.text):
            expected, row = not ops, None
        elif expected and columns[:1] == ["node type"] and "avg ms" in columns[1:-1]:
            expected, average = False, columns[1:-1].index("avg ms")
            row = re.compile(rf"\s*(\S.*?)((?:\s+{_NUMBER}%?){{{len(columns) - 2}}})(?:\s|$)")
        elif row and (match := row.match(line.text)):
            ms = float(match[2].split()[average].rstrip("%"))
            if math.isfinite(ms):
                ops.append(Op(match[1].removeprefix("Delegate/"), ms, match[1].startswith("Delegate/")))
        else:
            row = None
    return ops


def printable(text: str) -> str:
    """Replace control characters, which a terminal would take for commands, by question marks."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in text)
