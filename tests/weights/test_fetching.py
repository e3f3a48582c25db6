"""Weights are fetched on request alone, whole or not at all, and every failure ends in one line with a remedy.

A server on the loopback takes the place of the publishers: rows of the catalogue point to it.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
import threading
import zipfile
from dataclasses import replace

import pytest
from PIL import Image

from mobilenets_tf import FetchRequest, ModelSource, RequestError, create_model, fetch, files
from mobilenets_tf.answers.evaluation import EvaluateRequest, evaluate
from mobilenets_tf.cli import main
from mobilenets_tf.export import deployment, layer_sensitivity
from mobilenets_tf.export.deployment import DeployRequest
from mobilenets_tf.export.file_export import ExportRequest, export_file
from mobilenets_tf.export.layer_sensitivity import SensitivityRequest
from mobilenets_tf.training import request as training
from mobilenets_tf.training.request import TrainRequest
from mobilenets_tf.weights import archives, catalog, fetching
from tests.support.publisher import Publisher

gdown = pytest.importorskip("gdown")
requests = pytest.importorskip("requests")
hub_constants = pytest.importorskip("huggingface_hub.constants")

HDF5, ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
WEIGHTS = HDF5 + os.urandom(3_000_000 - len(HDF5))
SHA256 = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
PLAIN, HASHED, PACKED = "mobilenet_v1", "mobilenet_v3_small", "efficientnet_lite0"
RELEASED, ON_HUB = ("mobilevit_v3_xxs", "mobilevit_v3_xs"), "mobileone_s0"


def zipped(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return content.getvalue()


@pytest.fixture
def publisher(monkeypatch, tmp_path):
    """The server, an empty machine, and a catalogue of what the server has."""
    for name in ("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE", "KERAS_HOME", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MOBILENETS_TF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "home/.cache/huggingface/hub"))
    monkeypatch.setattr(fetching, "_RETRIES", 0)
    with Publisher() as server:
        monkeypatch.setattr(hub_constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        rows = {
            PLAIN: {"url": f"{server.address}/plain.h5"},
            HASHED: {"url": f"{server.address}/hashed.h5", "digest": SHA256},
            PACKED: {
                "url": f"{server.address}/p.whl", "member": "models/w.h5", "filename": "w.h5", "digest": SHA256,
                "package": "",
            },
            **{name: {"url": f"{server.address}/repos/m/releases/tags/v1"} for name in RELEASED},
            ON_HUB: {},
        }  # fmt: skip
        sets = [
            replace(record, **rows[record.network])
            for record in catalog.CATALOG
            if record.network in rows and record.tag == "imagenet" and record.alpha in (None, 1.0)
        ]
        monkeypatch.setattr(catalog, "CATALOG", tuple(sets))
        server.files = {
            "/plain.h5": WEIGHTS,
            "/hashed.h5": WEIGHTS,
            "/p.whl": zipped(p__other=b"", p__models__w=b"no", **{"p__models__w.h5": WEIGHTS}),
            "/timm/mobileone_s0.apple_in1k/resolve/main/model.safetensors": WEIGHTS,
        }
        yield server


def one(model):
    (fetched,) = fetch(FetchRequest((model,)))
    return fetched


def parts(tmp_path):
    return list((tmp_path / "cache/unfinished").glob("*"))


def test_nothing_is_fetched_unless_asked_for_and_the_message_is_the_command(publisher, capsys):
    with pytest.raises(RequestError, match=r"Not on this machine.*Fetch them:  mobilenets-tf fetch mobilenet_v1$"):
        ModelSource(PLAIN, weights="imagenet").check()
    assert publisher.requests == []
    assert main(["fetch", PLAIN, "--quiet"]) == 0
    assert "fetched, 3.0 MB; Apache-2.0" in capsys.readouterr().out
    ModelSource(PLAIN, weights="imagenet").check()
    assert main(["fetch", PLAIN, "--quiet"]) == 0 and "was here" in capsys.readouterr().out
    assert [method for method, *_ in publisher.requests] == ["GET"]
    assert main(["list", PLAIN]) == 0 and "--alpha 1.0  (here: " in capsys.readouterr().out


@pytest.mark.parametrize("model", [PLAIN, HASHED, PACKED, ON_HUB])
def test_every_kind_of_source_gives_the_file(publisher, model):
    steps = []
    said = pytest.warns(UserWarning, match="MobileOne licence") if model == ON_HUB else contextlib.nullcontext()
    with said:
        source = ModelSource(model, weights="imagenet", fetch=True)
        source.check()
        assert publisher.requests == []
        source.fetch_weights(lambda *step: steps.append(step))
    record = catalog.find(model, "imagenet", 1.0 if model in (PLAIN, HASHED) else None)
    assert catalog.require(record).read_bytes() == WEIGHTS
    assert steps[-1][1:] == (3000, 3000)
    facts = ModelSource(model, weights="imagenet").facts()
    assert f"sha256:{facts['weights_sha256']}" == SHA256 and facts["weights_licence"] == record.licence
    assert facts.get("weights_restrictions", "") == record.restrictions


def test_a_broken_connection_is_continued_by_the_next_command(publisher, tmp_path):
    publisher.cuts["/plain.h5"] = [2_000_000]
    with pytest.raises(RequestError, match=r"No connection to 127.0.0.1:\d+, or it broke .*continues with what has"):
        one(PLAIN)
    assert catalog.locate(catalog.CATALOG[0]) is None and len(parts(tmp_path)) == 1
    begun = parts(tmp_path)[0].stat().st_size
    assert begun > 1_000_000
    assert one(PLAIN).path.read_bytes() == WEIGHTS
    assert publisher.requests[-1] == ("GET", "/plain.h5", f"bytes={begun}-")
    assert parts(tmp_path) == []


def test_a_broken_connection_is_continued_in_one_run_too(publisher, monkeypatch):
    monkeypatch.setattr(fetching, "_RETRIES", 1)
    monkeypatch.setattr(gdown.download.__globals__["random"], "uniform", lambda *_: 0)
    publisher.cuts["/plain.h5"] = [2_000_000]
    assert one(PLAIN).path.read_bytes() == WEIGHTS
    assert publisher.requests[1][2].startswith("bytes=")


@pytest.mark.parametrize("ranges", [True, False])
def test_what_cannot_be_continued_begins_anew(publisher, tmp_path, ranges):
    """The server has another file by now, or does not give parts of files."""
    publisher.ranges = ranges
    (tmp_path / "cache/unfinished").mkdir(parents=True)
    (tmp_path / "cache/unfinished/mobilenet_1_0_224_tf.h5abcdefgh.part").write_bytes(WEIGHTS + b"more")
    assert one(PLAIN).path.read_bytes() == WEIGHTS


def test_a_file_with_another_digest_is_thrown_away(publisher, tmp_path):
    publisher.files["/hashed.h5"] = WEIGHTS[:-1] + b"\0" if WEIGHTS[-1] else WEIGHTS[:-1] + b"\1"
    with pytest.raises(RequestError, match=f"is another file than .* expected {SHA256}. It was thrown away"):
        one(HASHED)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["unfinished"] and parts(tmp_path) == []


def test_the_first_file_is_remembered_and_another_one_refused(publisher, tmp_path):
    first = one(PLAIN).path
    assert first.stat().st_mode & 0o777 == 0o644
    assert json.loads((tmp_path / "cache/weights.lock.json").read_text()) == {first.name: SHA256}
    first.write_bytes(b"changed")
    with pytest.raises(RequestError, match="is not the file of the 'imagenet' weights of mobilenet_v1.*them again"):
        ModelSource(PLAIN, weights="imagenet").check()
    assert one(PLAIN).is_new and first.read_bytes() == WEIGHTS  # a damaged file is replaced
    first.unlink()
    publisher.files["/plain.h5"] = HDF5 + b"another"
    with pytest.raises(RequestError, match=r"weights.lock.json remembers .* delete the entry mobilenet_1_0_224_tf"):
        one(PLAIN)
    assert not first.exists()
    (tmp_path / "cache/weights.lock.json").write_text("{")
    with pytest.raises(RequestError, match=r"weights.lock.json is not JSON"):
        one(PLAIN)


def test_a_page_instead_of_the_file_is_neither_kept_nor_remembered(publisher, tmp_path):
    publisher.files["/plain.h5"] = b"<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(RequestError, match=r"is no \.h5 file: it begins with b'<!DOCTYP'. It was thrown away.*sign in"):
        one(PLAIN)
    assert parts(tmp_path) == [] and not catalog.lock_file().exists()
    publisher.files["/plain.h5"] = WEIGHTS
    assert one(PLAIN).path.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("status", "told"),
    [(404, "is not there any more"), (403, "refused"), (500, "answered 500")],
)
def test_a_file_that_is_not_there_does_not_keep_the_others(publisher, capsys, status, told):
    publisher.statuses["/plain.h5"] = status
    assert main(["fetch", PLAIN, HASHED, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1
    assert (catalog.locate(catalog.find(HASHED, "imagenet", 1.0)) is None) == (status == 500)


def test_the_limit_of_github(publisher):
    refusal = requests.HTTPError(response=type("Response", (), {"status_code": 403})())
    record = replace(catalog.CATALOG[0], url="https://api.github.com/repos/m/releases/tags/v1")
    assert "api.github.com refused (403): it answers 60 times an hour" in str(fetching._explanation(record, refusal))


def test_a_wrong_proxy_is_no_full_disk(publisher, monkeypatch):
    monkeypatch.setenv("http_proxy", "ftp://nowhere:1:2")
    with pytest.raises(RequestError, match="No connection to .*HTTPS_PROXY") as error:
        one(PLAIN)
    assert "space" not in str(error.value)


def test_a_file_of_the_hub_that_is_not_there(publisher):
    publisher.files.clear()
    with pytest.warns(UserWarning), pytest.raises(RequestError, match=r"huggingface.co/timm/mobileone_s0.*\(404\)"):
        one(ON_HUB)


def test_a_redirect_is_followed(publisher):
    publisher.redirects["/plain.h5"] = "/elsewhere"
    publisher.files["/elsewhere"] = publisher.files.pop("/plain.h5")
    assert one(PLAIN).path.read_bytes() == WEIGHTS


def test_a_full_disk(publisher, monkeypatch, tmp_path):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setitem(gdown.download.__globals__, "open", lambda path, mode: Full(path, mode))
    with pytest.raises(RequestError, match="Cannot write .*: No space left on device. Free some space, or"):
        one(PLAIN)
    assert catalog.locate(catalog.CATALOG[0]) is None


def test_a_folder_that_cannot_be_written(publisher, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOBILENETS_TF_HOME", str(tmp_path / "file/cache"))
    with pytest.raises(RequestError, match="Cannot write .*: Not a directory. .* name another folder .MOBILENETS_TF_H"):
        one(PLAIN)
    keras_file = tmp_path / "home/.keras/models/mobilenet_1_0_224_tf.h5"
    keras_file.parent.mkdir(parents=True)
    keras_file.write_bytes(WEIGHTS)
    assert one(PLAIN).path == keras_file


def test_a_damaged_file_of_the_hub_is_replaced(publisher, tmp_path):
    with pytest.warns(UserWarning, match="MobileOne licence"):
        path = one(ON_HUB).path
        path.write_bytes(b"damaged")
        (tmp_path / "cache/mobileone_s0.apple_in1k.safetensors").write_bytes(b"damaged too")
        assert one(ON_HUB).is_new
    assert catalog.require(catalog.find(ON_HUB, "imagenet")).read_bytes() == WEIGHTS


def test_ctrl_c_keeps_what_has_arrived(publisher, monkeypatch, capsys, tmp_path):
    def interrupt(label, done, total):
        if done > 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(FetchRequest((PLAIN,)), interrupt)
    assert catalog.locate(catalog.CATALOG[0]) is None and parts(tmp_path)[0].stat().st_size > 1_000_000
    one(PLAIN)
    assert publisher.requests[-1][2].startswith("bytes=1")


def test_two_at_once_fetch_once_and_the_second_says_that_it_waits(publisher, tmp_path):
    started, waits, results = threading.Event(), threading.Event(), []

    def slowly(*_):
        started.set()
        waits.wait(5)

    first = threading.Thread(target=lambda: results.append(fetch(FetchRequest((PLAIN,)), slowly)))
    first.start()
    started.wait(5)
    steps = []

    def waiting(*step):
        steps.append(step)
        waits.set()

    results.append(fetch(FetchRequest((PLAIN,)), waiting))
    first.join()
    assert {each.path.read_bytes() for (each,) in results} == {WEIGHTS} and len(publisher.requests) == 1
    assert steps == [(f"Waiting for another fetch ({tmp_path / 'cache'})", 0, None)]


def test_nobody_waits_for_what_is_here(publisher, tmp_path):
    one(PLAIN)
    with files.only_user(tmp_path / "cache", "fetch"):
        assert not one(PLAIN).is_new


def test_no_network(publisher, monkeypatch):
    with Publisher() as gone:
        address = gone.address
    row = replace(catalog.CATALOG[0], url=f"{address}/plain.h5")
    monkeypatch.setattr(catalog, "CATALOG", (row,))
    with pytest.raises(RequestError, match=r"No connection to 127.0.0.1:\d+, .*refused.* Check the network"):
        one(PLAIN)


def test_the_hubs_offline_switch(publisher, monkeypatch):
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    with pytest.warns(UserWarning), pytest.raises(RequestError, match="HF_HUB_OFFLINE is set"):
        one(ON_HUB)


def test_without_the_extra_one_line_names_it(publisher, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="install the extra fetch:  pip install gdown huggingface_hub"):
        one(PLAIN)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (("mobilenet_v9",), "Unknown model 'mobilenet_v9'"),
        (("nothing*",), "Unknown model 'nothing.'"),
        (("mobileone_mu0",), "Nobody publishes weights for mobileone_mu0"),
        (("mobileone_mu*",), "No network of 'mobileone_mu.' has 'imagenet' weights"),
        (("v?",), "Unknown model 'v.'"),  # is in mobilenet_v1, and is not the whole name
    ],
)
def test_names_are_checked_before_anything_is_fetched(publisher, request_, told):
    with pytest.raises(RequestError, match=told):
        fetch(FetchRequest((PLAIN, *request_)))
    assert publisher.requests == []


@pytest.mark.parametrize(
    ("model", "alpha", "told"),
    [
        (PLAIN, 0.0, "No 'imagenet' weights for mobilenet_v1 at alpha=0.0; there are for alpha 1.0"),
        (PACKED, 0.5, "efficientnet_lite0 has no width multiplier. Leave --alpha .alpha=. out"),
    ],
)
def test_a_width_that_there_is_not(publisher, model, alpha, told):
    with pytest.raises(RequestError, match=told):
        fetch(FetchRequest((model,), alpha=alpha))
    with pytest.raises(RequestError, match=told):
        fetching.fetch_tag(model, "imagenet", alpha)


def test_create_model_fetches(publisher):
    with pytest.raises(RequestError, match="mobilenet_1_0_224_tf.h5 is damaged or not an HDF5 file"):  # it is noise
        create_model(PLAIN, weights="imagenet", fetch=True)
    assert catalog.locate(catalog.CATALOG[0]).read_bytes() == WEIGHTS
    with pytest.raises(RequestError, match="name them: --weights imagenet"):
        create_model(PLAIN, fetch=True)


def test_fetch_needs_a_tag():
    with pytest.raises(RequestError, match="name them: --weights imagenet"):
        ModelSource(PLAIN, fetch=True).check()
    assert "fetch" not in ModelSource(PLAIN, weights="imagenet", fetch=True).plain()
    assert "--fetch" not in ModelSource(PLAIN, weights="imagenet", fetch=True).options()


@pytest.mark.parametrize(
    ("verb", "request_", "told"),
    [
        (export_file, lambda source, out: ExportRequest(source, out=f"{out}/a.tflite"), "needs --calibration"),
        (export_file, lambda source, out: ExportRequest(source, out=f"{out}/a.bin", scheme="float32"), "ends in .tfl"),
        (evaluate, lambda source, out: EvaluateRequest(source, data=f"{out}/none"), "none"),
        (deployment.check, lambda source, out: DeployRequest(source, out=str(out), scheme="int8"), "needs --calib"),
        (layer_sensitivity.check, lambda source, out: SensitivityRequest(source, out=str(out)), "Nothing to measure"),
    ],
)
def test_everything_else_is_checked_before_weights_are_fetched(publisher, tmp_path, verb, request_, told):
    with pytest.raises(RequestError, match=told):
        verb(request_(ModelSource(PLAIN, weights="imagenet", fetch=True), tmp_path))
    assert publisher.requests == []


@pytest.fixture
def two_classes(tmp_path):
    """A folder with a photograph of each of two classes."""
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "data" / name / "1.png")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("recipe", "fetched"),
    [("finetune", ["/plain.h5", "/hashed.h5"]), ("scratch", ["/hashed.h5"])],
)
def test_train_fetches_the_weights_of_its_teacher_too(publisher, two_classes, tmp_path, monkeypatch, recipe, fetched):
    job = TrainRequest(
        ModelSource(PLAIN, fetch=True), data=two_classes, out=tmp_path / "out", evaluate=two_classes, teacher=HASHED,
        recipe=recipe,
    )  # fmt: skip
    with pytest.raises(RequestError, match="has 1000 classes, and .* has 2"):
        training.check(job)
    assert publisher.requests == []
    monkeypatch.setattr(ModelSource, "label_names", lambda self: [])
    training.check(job)
    assert [path for _, path, _ in publisher.requests] == fetched


# ------------------------------------------------------------------------------------------------------- archives
def tarred(*entries, packed="gz"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{packed}") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, data
                archive.addfile(info)
    return content.getvalue()


def test_a_release_gives_the_files_of_all_its_networks(publisher, tmp_path):
    """Its archives are searched; names of members never become paths."""
    xxs, xs = (catalog.find(name, "imagenet").member for name in RELEASED)
    publisher.files |= {
        "/repos/m/releases/tags/v1": json.dumps(
            {
                "assets": [
                    {"name": name, "browser_download_url": f"{publisher.address}/{name}"}
                    for name in ("a.tar.gz", "b.tar.gz", "notes.txt", "../c.zip")
                ]
            }
        ).encode(),
        "/a.tar.gz": tarred(("x/readme", b"?"), (f"x/{xxs}", "/etc/passwd")),
        "/b.tar.gz": tarred((f"../../{xxs}", ZIP + WEIGHTS), (f"v1/{xs}", ZIP), ("/etc/other", b"")),
    }
    with pytest.warns(UserWarning, match="Micron licence.*non-commercial use only"):
        assert one(RELEASED[0]).path.read_bytes() == ZIP + WEIGHTS
    assert not one(RELEASED[1]).is_new
    cache = tmp_path / "cache"
    assert sorted(path.name for path in cache.iterdir()) == [
        "mobilevitv3_XS_e300_7671.pt", "mobilevitv3_XXS_e300_7098.pt", "weights.lock.json",
    ]  # fmt: skip
    assert parts(tmp_path) == []


def released(publisher, **archives):
    """Publish a release with these archives."""
    names = {f"{name}.tar.gz": content for name, content in archives.items()}
    assets = [{"name": name, "browser_download_url": f"{publisher.address}/{name}"} for name in names]
    publisher.files["/repos/m/releases/tags/v1"] = json.dumps({"assets": assets}).encode()
    publisher.files |= {f"/{name}": content for name, content in names.items()}


def changed(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_damaged_archive_is_thrown_away(publisher, tmp_path):
    xxs = catalog.find(RELEASED[0], "imagenet").member
    good = tarred((xxs, ZIP + WEIGHTS[:100_000]), ("other", b"behind the wanted file"))
    released(publisher, a=changed(good, len(good) // 2))
    with (
        pytest.warns(UserWarning),
        pytest.raises(RequestError, match=r"^a.tar.gz is damaged.*run the same command") as e,
    ):
        one(RELEASED[0])
    assert len(str(e.value).splitlines()) == 1 and parts(tmp_path) == []
    released(publisher, a=good)
    with pytest.warns(UserWarning):
        assert one(RELEASED[0]).path.stat().st_size == 100_004


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", b'{"message": "Server Error"}', b"[]"])
def test_a_bad_list_of_files_does_not_stay(publisher, tmp_path, answer):
    publisher.files["/repos/m/releases/tags/v1"] = answer
    with pytest.warns(UserWarning), pytest.raises(RequestError, match=r"does not list the files .* again later"):
        one(RELEASED[0])
    assert parts(tmp_path) == []
    released(publisher, a=tarred((catalog.find(RELEASED[0], "imagenet").member, ZIP)))
    with pytest.warns(UserWarning):
        assert one(RELEASED[0]).is_new


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz"])
def test_one_wrong_byte_of_an_archive_is_damage(tmp_path, packed):
    noise = WEIGHTS[:20_000]
    content = tarred(("m/w", noise), packed=packed)
    for place in (len(content) // 2, len(content) - 6):
        (tmp_path / "a").write_bytes(changed(content, place))
        with pytest.raises(RequestError, match="^a is damaged or not an archive") as error:
            archives.extract(tmp_path / "a", {"w": tmp_path / "w"})
        assert len(str(error.value).splitlines()) == 1


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MOST_BYTES_IN_ALL", 1000)
    for entries in ((("m/other", bytes(2000)),), ()):
        (tmp_path / "a").write_bytes(tarred(*entries))
        with pytest.raises(RequestError, match="unpacks to more than"):
            archives.extract(tmp_path / "a", {"w": tmp_path / "w"})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no archive", "damaged or not an archive"),
        (tarred(("m/w", WEIGHTS))[:2_000_000], "damaged"),
        (zipped(m__w=WEIGHTS)[:-30], "damaged or not an archive"),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path, content, told):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RequestError, match=told):
        archives.extract(tmp_path / "a", {"w": tmp_path / "w"})


def test_a_huge_member_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MOST_BYTES", 1000)
    (tmp_path / "a").write_bytes(zipped(m__w=bytes(2000)))
    with pytest.raises(RequestError, match="w claims"):
        archives.extract(tmp_path / "a", {"w": tmp_path / "w"})


# ------------------------------------------------------------------------------- what other libraries have fetched
def test_files_of_other_libraries_are_found(publisher, tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    hub = home / ".cache/huggingface/hub/models--timm--mobileone_s0.apple_in1k"
    places = {
        home / ".keras/models/mobilenet_1_0_224_tf.h5": PLAIN,
        hub / f"snapshots/{'1' * 40}/model.safetensors": ON_HUB,
    }
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_bytes(WEIGHTS)
    (hub / "refs").mkdir()
    (hub / "refs/main").write_text("1" * 40)
    for place, model in places.items():
        assert main(["list", model]) == 0 and f"(here: {place})" in capsys.readouterr().out
    fetch(FetchRequest(tuple(places.values())))
    assert publisher.requests == []
    assert not catalog.lock_file().exists()  # nobody knows whether they are the publishers' files
    assert main(["doctor"]) in (0, 1)
    told = capsys.readouterr().out
    assert all(str(place) in told for place in places) and "2 of 6 weight sets are here" in told
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "other"))
    assert catalog.locate(catalog.CATALOG[0]) is None


def test_a_cache_that_may_not_be_read_is_passed_over(publisher, tmp_path, monkeypatch):
    stat = os.stat

    def guarded(path, *arguments, **options):
        if str(path).startswith(str(tmp_path / "secret")):
            raise PermissionError(13, "Permission denied")
        return stat(path, *arguments, **options)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "secret"))
    monkeypatch.setattr(os, "stat", guarded)
    assert catalog.locate(catalog.CATALOG[0]) is None


def test_a_weight_file_that_cannot_be_read_is_a_row_of_doctor(publisher, monkeypatch, capsys):
    path = one(PLAIN).path

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(catalog, "digest_of", refuse)
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert f"UNREADABLE ({path} cannot be read: Permission denied." in told
    assert "Damaged: mobilenet_1_0_224_tf.h5." in told and "Missing" not in told
    with pytest.raises(RequestError, match="cannot be read: Permission denied"):
        ModelSource(PLAIN, weights="imagenet").check()


@pytest.mark.parametrize("content", ['{"x": "abc"}', '{"x": 1}', "[]", '{"x": "sha256:"}'])
def test_a_damaged_lock_file(publisher, content):
    catalog.lock_file().parent.mkdir()
    catalog.lock_file().write_text(content)
    with pytest.raises(RequestError, match=r"weights.lock.json is damaged.*Delete it"):
        one(PLAIN)


@pytest.mark.parametrize(
    ("models", "told"),
    [(None, "FetchRequest: models"), (5, "FetchRequest: models"), ((5,), "models"), ((), "is empty"), ([], "is empty")],
)
def test_a_request_for_no_names(models, told):
    with pytest.raises(RequestError, match=told):
        FetchRequest(models)


def test_folders_of_other_libraries_are_spelled_as_the_libraries_read_them(publisher, tmp_path, monkeypatch):
    monkeypatch.setenv("STORE", "store")
    monkeypatch.setenv("HF_HOME", "~/$STORE")
    assert catalog.searched_folders()["Hugging Face"] == tmp_path / "home/store/hub"
    monkeypatch.setenv("HF_HUB_CACHE", "~/${STORE}/own")
    assert catalog.searched_folders()["Hugging Face"] == tmp_path / "home/store/own"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/$STORE")
    assert catalog.searched_folders()["Hugging Face"] == tmp_path / "home/store/huggingface/hub"
    assert catalog.searched_folders()["PyTorch"] == tmp_path / "home/$STORE/torch/hub/checkpoints"
