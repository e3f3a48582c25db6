"""The table of latencies: measured on a synthetic machine, written, read as hostile input, and asked."""

import json
import warnings
from dataclasses import replace

import pytest

from mobilenets_tf import LatencyRequest, LatencyTable, RequestError
from mobilenets_tf.search.latency import table as table_module
from mobilenets_tf.search.latency.file_widths import FileWidths
from mobilenets_tf.search.latency.measuring import this_machine
from mobilenets_tf.search.latency.workloads import Workload, workloads
from tests.support.synthetic_machine import OVERHEAD_MS, SHARE, SyntheticMachine, ms_of


@pytest.fixture(scope="module")
def converted(contents):
    """A ``Worker`` that has the files of the small classifier, whatever the model is."""

    class Converted:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def call(self, function, source, scheme):
            return contents[scheme]

    return Converted


@pytest.fixture
def machine(monkeypatch, contents, converted):
    """Devices and the conversion are replaced; the returned list has each device that was made."""
    made = []

    def device(request):
        made.append(SyntheticMachine(device.fail_after))
        return made[-1]

    device.fail_after = None
    monkeypatch.setattr(table_module, "_device", device)
    monkeypatch.setattr(table_module, "Worker", converted)
    monkeypatch.setattr(table_module, "file_of", lambda model, scheme: contents[scheme])
    made.append(device)
    return made


@pytest.fixture
def request_of(tmp_path):
    def make(**options):
        return LatencyRequest("mobilenet_v1", **{"out": str(tmp_path / "table.json"), "networks": 8} | options)

    return make


def truth(content):
    return OVERHEAD_MS + SHARE * sum(map(ms_of, workloads(content)))


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_networks_that_were_not_measured_are_predicted(machine, request_of, contents, scheme, tmp_path):
    reports = []
    table = LatencyTable.measure(request_of(scheme=scheme, networks=24), lambda *step: reports.append(step))
    file = FileWidths(contents[scheme])
    for width in (12, 20, 33, 44, 60):
        content = file.with_widths(dict.fromkeys(file.groups, width))
        assert table.predict(content) == pytest.approx(truth(content), rel=0.01)
        path = tmp_path / "other.tflite"
        path.write_bytes(content)
        assert table.predict(path) == table.predict(content)
    assert table.predict("any model") == pytest.approx(truth(contents[scheme]), rel=1e-3)
    assert table.error.median < 0.01 and table.error.within_10 == 1.0
    assert table.networks == 24 and table.scheme == scheme and table.machine.processor == "synthetic"
    assert {label for label, *_ in reports} == {"converting", "making files to measure", "measuring"}
    assert sorted(path.name for path in tmp_path.glob("table*")) == ["table.json"]


def test_written_and_read_again(machine, request_of, tmp_path, contents):
    table = LatencyTable.measure(request_of())
    again = LatencyTable.read(tmp_path / "table.json", elsewhere=True)
    assert again.summary() == table.summary()
    assert again.predict(contents["int8"]) == pytest.approx(table.predict(contents["int8"]), rel=1e-4)
    again.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "table.json").read_bytes()
    machine[0].fail_after = None
    LatencyTable.measure(request_of())  # over an earlier table, the same again
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "table.json").read_bytes()


def test_interrupted_it_goes_on(machine, request_of, tmp_path):
    whole = LatencyTable.measure(request_of(out=str(tmp_path / "whole.json")))
    machine[0].fail_after = 10
    with pytest.raises(KeyboardInterrupt):
        LatencyTable.measure(request_of())
    partial = tmp_path / "table.json.partial"
    assert partial.exists() and not (tmp_path / "table.json").exists()
    machine[0].fail_after = None
    table = LatencyTable.measure(request_of())
    assert len(machine[2].ran) == 10 and len(machine[3].ran) == 4 * 8 - 10
    assert table == replace(whole) and not partial.exists()
    assert (tmp_path / "whole.json").read_bytes() == (tmp_path / "table.json").read_bytes()


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"request": 1}', None])
def test_a_partial_table_that_is_damaged_or_of_another_request(machine, request_of, tmp_path, text):
    partial = tmp_path / "table.json.partial"
    if text is None:
        machine[0].fail_after = 10
        with pytest.raises(KeyboardInterrupt):
            LatencyTable.measure(request_of(seed=1))
        machine[0].fail_after = None
    else:
        partial.write_bytes(text)
    with pytest.warns(UserWarning, match="table.json.partial is .*; measuring begins anew"):
        LatencyTable.measure(request_of(networks=5))
    assert len(machine[-1].ran) == 4 * 5 and not partial.exists()


def test_a_partial_table_of_another_phone(machine, request_of, tmp_path, monkeypatch):
    machine[0].fail_after = 10
    with pytest.raises(KeyboardInterrupt):
        LatencyTable.measure(request_of())
    monkeypatch.setattr(SyntheticMachine, "machine", replace(SyntheticMachine.machine, processor="another"))
    machine[0].fail_after = None
    with pytest.raises(RequestError, match="was begun on Machine.*'synthetic'.*and this is .*'another'"):
        LatencyTable.measure(request_of())
    assert (tmp_path / "table.json.partial").exists()


@pytest.fixture(scope="module")
def measured(converted):
    """A table of five networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "_device", lambda request: SyntheticMachine())
        patch.setattr(table_module, "Worker", converted)
        return LatencyTable.measure(LatencyRequest("mobilenet_v1", networks=5))


@pytest.fixture
def document(measured, tmp_path):
    measured.write(tmp_path / "table.json")
    return json.loads((tmp_path / "table.json").read_text())


def test_a_table_of_another_machine(document, tmp_path):
    path = tmp_path / "table.json"

    def of(**changes):
        here = this_machine()
        about = {"processor": here.processor, "litert": here.litert} | changes
        path.write_text(json.dumps(document | {"machine": document["machine"] | about}))
        return path

    assert LatencyTable.read(of()).difference() is None
    with pytest.raises(RequestError, match="with LiteRT '1.0'; this machine has .* Measure a table on this machine"):
        LatencyTable.read(of(litert="1.0"))
    with pytest.raises(RequestError, match=r"on the processor 'Abacus'; this machine has .*elsewhere=True"):
        LatencyTable.read(of(processor="Abacus"))
    assert "Abacus" in LatencyTable.read(of(processor="Abacus"), elsewhere=True).difference()


EXAMPLE = "CONV_2D, int8, 8x8, 3 to 8, kernel 3x3, stride 2x2, dilation 1x1, relu6"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": "another"}, "is no table of latencies: its format is 'another'"),
        ({"entries": {}}, "entries has 0 operators; expected 1 to"),
        ({"entries": []}, r"entries is '\[\]'; expected an object"),
        ({"entries": {"rm -rf /": 1.0}}, "'rm -rf /' describes no operator"),
        ({"entries": {EXAMPLE: "1"}}, "is '1'; expected a number"),
        ({"entries": {EXAMPLE: -1.0}}, "is -1; expected 0 to"),
        ({"entries": {EXAMPLE: True}}, "is 'True'; expected a number"),
        ({"entries": {EXAMPLE: None}}, "is 'None'; expected a number"),
        ({"machine": {}}, "processor is 'None'; expected a text"),
        ({"threads": 10**12}, "threads is 1000000000000; expected 0 to"),
        ({"threads": 1.5}, "threads is '1.5'; expected a whole number"),
        ({"line": {"slope": 1.0}}, "line has slope; expected intercept, slope"),
        ({"line": {"slope": 1e300, "intercept": 0}}, r"line.slope is 1e\+300; expected"),
        ({"error": {}}, "error has ; expected median"),
        ({"scheme": 8}, "scheme is '8'; expected a text"),
    ],
)
def test_hostile_tables(document, tmp_path, changes, message):
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps(document | changes))
    with pytest.raises(RequestError, match=message):
        LatencyTable.read(path, elsewhere=True)


def test_files_that_are_no_tables(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    for content, message in (
        (b"", "is not JSON"),
        (b"[" * 100_000, "is refused: its JSON is nested|is not JSON"),
        (b'{"format": NaN}', "is no table of latencies"),
        (b"[]", "is no table of latencies: its format is 'list'"),
        (b"\xff\xfe\x00", "is not JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=message):
            LatencyTable.read(path)
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        LatencyTable.read(tmp_path / "none.json")
    monkeypatch.setattr("mobilenets_tf.search.latency.table_file._MOST_BYTES", 100)
    path.write_bytes(b" " * 101)
    with pytest.raises(RequestError, match="and no table of latencies has"):
        LatencyTable.read(path)


def test_networks_that_the_table_cannot_predict(measured, contents):
    table = measured
    with pytest.raises(RequestError, match="computes in float32, and the table is of int8 files: convert"):
        table.predict(contents["float32"])
    with pytest.raises(RequestError, match="has no TANH"):
        table.of_operators((*workloads(contents["int8"]), Workload("TANH", "int8", (8, 8), (8, 8))))
    with pytest.raises(RequestError, match="not a TFLite file"):
        table.predict(b"something")
    with pytest.raises(RequestError, match=r"none.tflite cannot be read: No such file"):
        table.predict("none.tflite")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scheme": "int4"}, "Unknown scheme of a table of latencies 'int4'. Did you mean 'int8'"),
        ({"threads": 0}, r"threads=0: expected 1 to 64 \(--threads\)"),
        ({"networks": 1}, "networks=1: expected 5 to 2000"),
        ({"minutes": -1.0}, "minutes=-1.0: expected 0 to 1440"),
        ({"kernels": (0,)}, "kernels=.*expected sides of 1 to 15"),
        ({"adb": "adb"}, r"adb \(--adb\) needs android \(--android\)"),
        ({"android": True}, r"benchmark_model \(--benchmark-model\) is missing"),
        ({"out": "/"}, "out='/' .*is a folder"),
        ({"networks": "many"}, "networks='many' is a str; expected int"),
    ],
)
def test_wrong_requests(machine, request_of, options, message):
    with pytest.raises(RequestError, match=message):
        LatencyTable.measure(request_of(**options))
    assert len(machine) == 1  # nothing was begun


def test_another_file_is_not_replaced(machine, request_of, tmp_path):
    (tmp_path / "table.json").write_text("my notes")
    with pytest.raises(
        RequestError, match="is there and is no table of latencies; choose another place, or pass --over"
    ):
        LatencyTable.measure(request_of())
    assert (tmp_path / "table.json").read_text() == "my notes"
    LatencyTable.measure(request_of(networks=5, overwrite=True))
    assert LatencyTable.read(tmp_path / "table.json", elsewhere=True).networks == 5


def test_a_registered_network_needs_no_weights():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        request = LatencyRequest("mobilenet_v3_small")
        request.check()
    assert request.source.weights == "random"
    with pytest.raises(RequestError, match="Unknown model 'mobilenet_v3_smal'. Did you mean 'mobilenet_v3_small'"):
        LatencyRequest("mobilenet_v3_smal").check()
