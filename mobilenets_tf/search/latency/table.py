"""``LatencyTable``: predict the latency of networks from the operators that were measured inside other networks."""

import functools
import hashlib
import os
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.speed.phone import check_phone_options
from mobilenets_tf.modelsource import RANDOM, TFLITE, AnyModel, ModelSource
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.search.latency import table_file
from mobilenets_tf.search.latency.base_file import check_scheme, file_of, file_of_source
from mobilenets_tf.search.latency.cost_model import CostModel
from mobilenets_tf.search.latency.measuring import Here, OnPhone, measure_in_turn, measured, this_machine
from mobilenets_tf.search.latency.partial import Partial
from mobilenets_tf.search.latency.prediction import (
    cross_validated,
    cross_validated_multiply_adds,
    entries_of,
    line_of,
    sum_of,
)
from mobilenets_tf.search.latency.variants import variants
from mobilenets_tf.search.latency.workloads import Workload, workloads
from mobilenets_tf.version import __version__
from mobilenets_tf.worker import Worker

_LEAST_NETWORKS, _MOST_NETWORKS = 5, 2000
_MOST_KERNEL = 15
_COMPUTE = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class LatencyRequest:
    """What a table of latencies is measured on.

    source: the model whose space is measured: a registry name, a path, a ``keras.Model`` or a ``ModelSource``. Weights
        do not matter; a registered network has random ones.
    out: the JSON file to write; beside it ``<out>.partial`` is kept until the table is done. None: nothing is written.
    scheme: "float32" or "int8". threads: of LiteRT.
    networks: how many files are measured: the model's own, and with its groups of channels at 87.5, 75, ... 25 %, alone
        and mixed.
    kernels: sides of the depthwise kernels that the files have, beside the model's own.
    minutes: time limit for the passes after the first.
    seed: of the mixtures.
    android: measure on an attached phone. benchmark_model, adb, serial, cores: as in ``PhoneRequest``.
    overwrite: replace a file that is no table of latencies.
    """

    source: AnyModel
    out: str | None = None
    scheme: str = "int8"
    threads: int = 1
    networks: int = 96
    kernels: tuple[int, ...] = ()
    minutes: float = 8.0
    seed: int = 0
    android: bool = False
    benchmark_model: str | None = None
    adb: str | None = None
    serial: str | None = None
    cores: str | None = None
    overwrite: bool = False

    def __post_init__(self):
        source = ModelSource.of(self.source)
        if source.weights is None and not source.is_file:
            source = replace(source, weights=RANDOM)
        object.__setattr__(self, "source", source)
        check_fields(self)

    def check(self) -> None:
        """Refuse what cannot work, before any work is done.

        Raises:
            RequestError: the model is not there; the scheme is another; a number is out of range; an option of a phone
                is given without ``android``; or ``out`` is a file that is no table, or cannot be written.
        """
        check_scheme(self.scheme)
        for name, low, high in (
            ("threads", 1, 64), ("networks", _LEAST_NETWORKS, _MOST_NETWORKS), ("minutes", 0, 24 * 60),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise RequestError(f"{name}={getattr(self, name)}: expected {low} to {high} (--{name}).")
        for side in self.kernels:
            if not 1 <= side <= _MOST_KERNEL:
                raise RequestError(f"kernels={self.kernels}: expected sides of 1 to {_MOST_KERNEL} (--kernels).")
        if not self.android:
            for name in ("benchmark_model", "adb", "serial", "cores"):
                if getattr(self, name):
                    flag = name.replace("_", "-")
                    raise RequestError(f"{name} (--{flag}) needs android (--android): it is an option for a phone.")
        else:
            check_phone_options(self.benchmark_model, self.cores)
        if self.out is not None:
            path = Path(self.out)
            files.check_folder(path.parent)
            if path.is_dir():
                raise RequestError(f"out={self.out!r} (--out) is a folder; expected the name of a JSON file.")
            if path.exists() and not self.overwrite:
                try:
                    table_file.read(path)
                except RequestError:
                    raise RequestError(
                        f"{path} is there and is no table of latencies; choose another place, or pass --overwrite "
                        "(overwrite=True) to replace it."
                    ) from None
        self.source.check(may_be_random=True)  # type: ignore[union-attr]


class LatencyTable(table_file.Contents):
    """The times of operators on one machine, and what follows for whole networks.

    machine: what the times hold for. model: what was measured, as plain data. scheme, threads: of the files.
    networks: how many files were measured. line: from the sum of a network's operators to its latency, in ms.
    error: of predictions of networks that were held out. multiply_adds_error: of a line through the multiply-adds, on
    the same networks. entries: the time of each operator in ms.
    """

    @classmethod
    def measure(cls, request: LatencyRequest, progress: Progress = silent) -> "LatencyTable":
        """Measure a table, and write it to ``request.out``.

        Files of the model with other widths run here, or on a phone, in turn and several times, each as a whole and
        with LiteRT's profiler. An interrupted measurement goes on where it was, if the same is asked for again.

        Args:
            request: what to measure.
            progress: called with (label, done, total).

        Raises:
            RequestError: the request is wrong (``LatencyRequest.check``), a file cannot be run, or the phone or the
                tool cannot be used (``benchmark_on_phone``).
            ConversionError: the converter refused the model.
        """
        request.check()
        source: ModelSource = request.source  # type: ignore[assignment]
        source.fetch_weights(progress)
        progress("converting", 0, 1)
        with Worker() as worker:
            content = worker.call(file_of_source, source, request.scheme)
        progress("converting", 1, 1)
        with files.TemporaryFolder("mobilenets-tf-") as folder, _device(request) as device:
            paths = []
            for number, each in enumerate(variants(content, request.networks, request.kernels, request.seed)):
                path = Path(folder, f"{number}.tflite")
                path.write_bytes(each)
                paths.append(path)
                progress("making files to measure", number + 1, request.networks)
            partial = Partial(request.out and Path(request.out), _asked(request, content), len(paths))
            try:
                measure_in_turn(
                    paths, device, partial.runs, request.minutes,
                    keep=lambda: partial.keep(device.machine), progress=progress,
                )  # fmt: skip
            finally:
                partial.write()
            networks = [measured(path.read_bytes(), runs) for path, runs in zip(paths, partial.runs, strict=True)]
            table = cls(
                machine=partial.machine or device.machine,
                model=source.facts(),
                scheme=request.scheme,
                threads=request.threads,
                networks=len(networks),
                line=line_of(networks),
                error=cross_validated(networks),
                multiply_adds_error=cross_validated_multiply_adds(networks),
                entries=entries_of(networks),
            )
        if request.out is not None:
            table.write(request.out)
            partial.remove()
        return table

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, elsewhere: bool = False) -> "LatencyTable":
        """Read a table that ``write`` has written.

        Args:
            path: of the JSON file.
            elsewhere: the table is meant for another machine, such as a phone. False: a table that was measured on
                another processor, or with another version of LiteRT, than this machine has is refused.

        Raises:
            RequestError: the file cannot be read, is no table or is damaged; or the table is of another machine.
        """
        table = cls(**vars(table_file.read(Path(path))))
        if not elsewhere and (difference := table.difference()):
            raise RequestError(
                f"{os.fspath(path)}: {difference} Its latencies do not hold here. Measure a table on this machine "
                "(mobilenets-tf latency), or say that it is meant for another one (elsewhere=True)."
            )
        return table

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, whole or not at all.

        Raises:
            RequestError: the folder cannot be written.
        """
        place = Path(path)
        files.write_together(place.parent, {place.name: table_file.written(self)})

    def digest(self) -> str:
        """Return the sha256 of the table's file."""
        return hashlib.sha256(table_file.written(self).encode()).hexdigest()

    def summary(self) -> dict:
        """Return what the table was measured on and its error, as plain data, without the entries."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "entries"}
        plain = {name: asdict(value) if is_dataclass(value) else value for name, value in values.items()}
        return plain | {"model": dict(self.model), "entries": len(self.entries)}

    def difference(self) -> str | None:
        """Say how the table's machine differs from this one, in a sentence; None where latencies hold here too."""
        here = this_machine()
        for name, there, own in (
            ("on the processor", self.machine.processor, here.processor),
            ("with LiteRT", self.machine.litert, here.litert),
        ):
            if there != own:
                return f"The table was measured {name} {there!r}; this machine has {own!r}."
        return None

    def predict(self, model: "AnyModel | bytes") -> float:
        """Predict the latency of a network in ms, on the machine of the table.

        Args:
            model: the content or the path of a ``.tflite`` file of the table's scheme; or any other model that
                ``to_tflite`` takes, which is converted first (some seconds).

        Raises:
            RequestError: the file is of another scheme, or has an operator of a kind that was not measured.
            ConversionError: the converter refused the model.
        """
        if isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(TFLITE):
            try:
                model = Path(model).read_bytes()
            except OSError as error:
                raise RequestError(f"{os.fspath(model)} cannot be read: {error.strerror or error}.") from error
        elif not isinstance(model, bytes):
            model = file_of(model, self.scheme)
        return self.of_operators(tuple(workloads(model)))

    def of_operators(self, operators: tuple[Workload, ...]) -> float:
        """Predict the latency in ms of a network with these operators: what ``predict`` does with a file's.

        Raises:
            RequestError: they are of another scheme, or one is of a kind that was not measured.
        """
        types = {each.type for each in operators if each.op in _COMPUTE}
        if types and self._types.isdisjoint(types):
            raise RequestError(
                f"The network computes in {', '.join(sorted(types))}, and the table is of {self.scheme} files: "
                f"convert the network with the scheme {self.scheme}, or take another table."
            )
        return self.line.at(sum_of(self._cost_model, operators))

    @functools.cached_property
    def _types(self) -> set[str]:
        return {each.type for each in self.entries if each.op in _COMPUTE}

    @functools.cached_property
    def _cost_model(self) -> CostModel:
        return CostModel(self.entries)


def _device(request: LatencyRequest) -> Here | OnPhone:
    if request.android:
        return OnPhone(request.benchmark_model, request.adb, request.serial, request.cores, request.threads)
    return Here(request.threads)


def _asked(request: LatencyRequest, content: bytes) -> dict:
    """Describe what is measured, and where, for a partial table."""
    return {
        "file": hashlib.sha256(content).hexdigest(),
        "options": {
            "scheme": request.scheme, "threads": request.threads, "networks": request.networks,
            "kernels": list(request.kernels), "seed": request.seed,
            "phone": [request.benchmark_model, request.serial, request.cores] if request.android else None,
        },
        "machine": asdict(this_machine()),
        "version": __version__,
    }  # fmt: skip
