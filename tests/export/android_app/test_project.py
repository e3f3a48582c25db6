"""The Android project: its Kotlin compiles, and computes on a JVM what Python computed."""

import json
import re
import shutil
import subprocess
import xml.dom.minidom
from pathlib import Path

import numpy as np
import pytest

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import project_folder
from mobilenets_tf.export.android_app import project
from tests.support import colour_files
from tests.support.deployed_files import CASES, VALUES, deployed

SUPPORT = Path(__file__).parents[2] / "support"
# Of these, all of the Kotlin is compiled; of the others what differs, which is what needs no class of Android's.
WHOLE = ("classify_keras", "several_labels", "detect_raw", "segment_mask")
NEED_NO_ANDROID = ("/Photo.kt", "/Input.kt", "/Values.kt", "/Answers.kt", "/ExpectedTest.kt")


PACK = {
    "ai_pack/src/main/assets/model#group_Qualcomm_SM8750/model.tflite": b"compiled",
    "ai_pack/src/main/assets/model#group_other/model.tflite": b"other",
    "device_targeting_configuration.xml": b"<config/>",
}


def files_of(name: str) -> dict[str, str | bytes]:
    content, manifest = deployed(name)
    anchors = {f"{name}.tflite.anchors.json": "{}"} if manifest["form"] == "raw" else {}
    pack = PACK if name == "classify_keras" else {}  # so that the Kotlin that opens it is compiled
    return project.files_of(f"{name}.tflite", content, manifest, colour_files.LABELS, anchors, pack)


@pytest.mark.parametrize("name", CASES)
def test_a_project_is_complete(name):
    files = files_of(name)
    assert files[f"app/src/main/assets/{name}.tflite"] == deployed(name)[0]
    assert files["app/src/main/assets/labels.txt"] == "red\ngreen\nblue\n"
    package = f"com/example/net_{name}"
    assert {f"app/src/main/kotlin/{package}/{each}.kt" for each in ("MainActivity", "Network", "Answers")} < {*files}
    for path, text in files.items():
        if isinstance(text, str):
            assert "{{" not in text and "{%" not in text, path
    kotlin = "".join(text for path, text in files.items() if path.endswith(".kt"))
    assert "- -" not in kotlin and "+ -" not in kotlin
    strings = xml.dom.minidom.parseString(files["app/src/main/res/values/strings.xml"])
    defined = {each.getAttribute("name") for each in strings.getElementsByTagName("string")}
    assert set(re.findall(r"R\.string\.(\w+)", kotlin)) | {"app_name"} == defined
    if name not in VALUES:
        answers = np.frombuffer(files["app/src/test/resources/expected/answers.bin"], np.uint8)
        assert len({*answers.tolist()}) > 1


@pytest.mark.parametrize("name", ["classify_keras", "segment_mask"])
def test_the_pack_for_npus_is_a_module_of_the_project(name):
    content, manifest = deployed(name)
    files = project.files_of("net.tflite", content, manifest, colour_files.LABELS, pack=PACK)
    assert files["app/device_targeting_configuration.xml"] == b"<config/>"
    assert {path for path in PACK if path.startswith("ai_pack/")} < {*files}
    assert 'packName = "ai_pack"' in files["ai_pack/build.gradle.kts"]
    assert 'include(":ai_pack")' in files["settings.gradle.kts"]
    assert 'id("com.android.ai-pack") version "9' in files["build.gradle.kts"]
    app = files["app/build.gradle.kts"]
    assert 'assetPacks += ":ai_pack"' in app and 'file("device_targeting_configuration.xml")' in app
    assert "android.experimental.enableDeviceTargetingConfigApi=true" in files["gradle.properties"]
    (network,) = (text for path, text in files.items() if path.endswith("/Network.kt"))
    assert 'if (accelerator == Accelerator.NPU) forNpu(context) else "net.tflite"' in network
    assert "compiled for Qualcomm SM8750." in files["README.md"]
    plain = project.files_of("net.tflite", content, manifest, colour_files.LABELS)
    assert not any("ai_pack" in path for path in plain)
    assert not any("ai_pack" in text or "ai-pack" in text for text in plain.values() if isinstance(text, str))


def test_names_cannot_break_out_of_their_places():
    content, manifest = deployed("classify_keras")
    hostile = """a"$b</string>'\\ @\x1b[31m.tflite"""
    files = project.files_of(hostile, content, manifest, ())
    (network,) = (text for path, text in files.items() if path.endswith("/Network.kt"))
    assert 'context.assets, "a\\"\\$b</string>' in network and "\x1b" not in network
    strings = xml.dom.minidom.parseString(files["app/src/main/res/values/strings.xml"])
    shown = strings.getElementsByTagName("string")[0].firstChild.data
    assert shown == "a\\\"$b</string>\\'\\\\ @\\x1b[31m"
    assert any("com/example/net_a_b_string_31m/" in path for path in files)


def test_a_project_is_written_whole_and_replaced_only_where_nothing_is_lost(tmp_path):
    content, manifest = deployed("classify_keras")
    file, folder, request = tmp_path / "net.tflite", tmp_path / "app", {"model": {"name": "net"}, "options": {}}
    file.write_bytes(content)

    def write():
        project_folder.check(folder, "--android-app", False, request)
        project.write(folder, file, manifest, colour_files.LABELS, request, {})

    write()
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write()  # an earlier result that nobody has changed
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    listed = {entry["file"] for entry in json.loads((folder / project_folder.LIST).read_text())["files"]}
    assert listed == {str(path) for path in first} - {project_folder.LIST}
    with pytest.raises(RequestError, match="the project there is of another request.*--overwrite"):
        project_folder.check(folder, "--android-app", False, {"model": {"name": "other"}, "options": {}})
    (folder / "README.md").write_text("mine")
    with pytest.raises(RequestError, match=r"README.md was changed; choose another folder, or pass --overwrite"):
        project_folder.check(folder, "--android-app", False, request)
    project_folder.check(folder, "--android-app", True, request)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.png").touch()
    with pytest.raises(RequestError, match="the folder is not empty"):
        project_folder.check(other, "--android-app", False, request)


def test_what_is_no_longer_part_of_a_project_goes_and_what_is_the_users_stays(tmp_path):
    project_folder.write(tmp_path, {"a/old.kt": "1", "a/mine.kt": "1", "b.kt": "1"}, {})
    (tmp_path / "a" / "mine.kt").write_text("changed")
    (tmp_path / "notes.txt").write_text("own")
    with pytest.raises(RequestError, match=r"notes.txt is there and is no file of an earlier project.*--overwrite"):
        project_folder.write(tmp_path, {"notes.txt": "2"}, {})
    project_folder.write(tmp_path, {"b.kt": "2", "c.kt": "2"}, {}, overwrite=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a/mine.kt", "b.kt", "c.kt", "notes.txt", project_folder.LIST}


@pytest.mark.parametrize("file", ["/etc/passwd", "../other", "x" * 300, "", "a\0b", 3, "/proc/self/mem"])
def test_a_list_of_files_names_nothing_outside_of_its_folder(file, tmp_path):
    listed = {"files": [{"file": file, "sha256": "0" * 64}, "nothing", {"file": "a"}]}
    (tmp_path / project_folder.LIST).write_text(json.dumps(listed))
    project_folder.check(tmp_path, "--android-app", False, {})
    project_folder.write(tmp_path, {"b.kt": "2"}, {})
    assert (tmp_path / "b.kt").is_file()


def test_one_folder_is_for_one_result(tmp_path):
    with pytest.raises(RequestError, match="--android-app and --web-page both name .*; give each a folder of its own"):
        project_folder.check_apart(
            {"--out": tmp_path, "--android-app": tmp_path / "a", "--web-page": tmp_path / "b/../a"}
        )
    with pytest.raises(RequestError, match=r"Cannot write x+: File name too long. Choose another --android-app"):
        project_folder.check(Path("x" * 300), "--android-app", False, {})
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="link is a link to nothing"):
        project_folder.check(tmp_path / "link", "--android-app", False, {})


def test_types_that_litert_does_not_read_in_kotlin_are_refused():
    content, manifest = deployed("classify_keras")
    end = manifest["outputs"][0] | {"dtype": "int16"}
    with pytest.raises(RequestError, match="is int16, which LiteRT's Kotlin API does not read.*scheme int8"):
        project.files_of("net.tflite", content, manifest | {"outputs": [end]}, ())


JUNIT = [Path("/usr/share/java") / jar for jar in ("junit4.jar", "hamcrest-core.jar")]
COMPILES = pytest.mark.skipif(
    not shutil.which("kotlinc") or not all(jar.exists() for jar in JUNIT),
    reason="kotlinc or JUnit is not installed (Debian: apt install kotlin junit4)",
)


@pytest.fixture(scope="module")
def compiled(made_once, tmp_path_factory):
    """The Kotlin of every case and its tests, compiled at once: the compiler takes many seconds to start."""
    folder = tmp_path_factory.mktemp("android_app")

    def archive():
        sources = {"litert.kt": (SUPPORT / "litert_stubs.kt").read_text()}
        for line in (SUPPORT / "android_stubs.txt").read_text().splitlines():
            if not line.startswith("#"):
                name, code = line.split("  ", 1)
                sources[f"{name.replace('.', '/')}.java"] = f"package {name.rpartition('.')[0]};\n{code}\n"
        for name in CASES:
            for path, text in files_of(name).items():
                if path.endswith(".kt") and (name in WHOLE or path.endswith(NEED_NO_ANDROID)):
                    sources[path.partition("/kotlin/")[2]] = text
                elif path.endswith("strings.xml"):
                    named = re.findall('name="(.*?)"', text)
                    values = "".join(f"const val {each} = 1\n" for each in named)
                    sources[f"{name}/R.kt"] = (
                        f"package com.example.net_{name}\nobject R {{ object string {{ {values} }} }}"
                    )
        for name, text in sources.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        java = [name for name in sources if name.endswith(".java")]
        classes = [folder / "stubs", *JUNIT]
        subprocess.run(["javac", "-nowarn", "-d", "stubs", *java], check=True, cwd=folder)
        command = ["kotlinc", "-cp", ":".join(map(str, classes)), "-include-runtime", "-d", "all.jar"]
        done = subprocess.run(
            [*command, *(name for name in sources if name.endswith(".kt"))], capture_output=True, text=True, cwd=folder
        )
        assert done.returncode == 0, done.stderr[-3000:]
        ours = [line for line in done.stderr.splitlines() if re.search(r"com/example.*: warning", line)]
        assert not ours, ours
        return (folder / "all.jar").read_bytes()

    path = folder / "compiled.jar"
    path.write_bytes(made_once("android_app", archive))
    return path


@pytest.mark.slow
@COMPILES
@pytest.mark.parametrize("name", CASES)
def test_the_projects_own_tests_pass_on_a_jvm(compiled, tmp_path, name):
    for path, data in files_of(name).items():
        if path.startswith("app/src/test/resources/"):
            place = tmp_path / path.removeprefix("app/src/test/resources/")
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
    classes = ":".join(map(str, (compiled, tmp_path, *JUNIT)))
    command = ["java", "-cp", classes, "org.junit.runner.JUnitCore", f"com.example.net_{name}.ExpectedTest"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "OK (4 tests)" in done.stdout, done.stdout[-3000:]


FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("aapt") or not FRAMEWORK.exists(),
    reason="aapt is not installed (Debian: apt install aapt android-framework-res)",
)
def test_aapt_packages_manifest_resources_and_assets(tmp_path):
    for path, data in files_of("classify_keras").items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data.encode() if isinstance(data, str) else data)
    main = tmp_path / "app/src/main"
    # The Gradle plugin puts the namespace into the manifest.
    manifest = main / "AndroidManifest.xml"
    manifest.write_text(manifest.read_text().replace("<manifest ", '<manifest package="com.example.net" ', 1))
    command = ["aapt", "package", "-f", "-M", str(manifest), "-S", str(main / "res"), "-A", str(main / "assets")]
    command += ["-0", "tflite", "-I", str(FRAMEWORK), "-F", str(tmp_path / "app.apk")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        ["aapt", "dump", "badging", str(tmp_path / "app.apk")], capture_output=True, text=True
    ).stdout
    assert "launchable-activity: name='com.example.net.MainActivity'" in shown
    assert "uses-permission: name='android.permission.CAMERA'" in shown
    assert "application-label:'classify_keras'" in shown
