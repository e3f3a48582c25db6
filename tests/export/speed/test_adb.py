"""Finding adb and choosing a device, with a real adb if there is one, but without a phone."""

import shutil
import socket
import subprocess

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.export.speed import adb
from mobilenets_tf.export.speed.adb import Device


def test_choosing_a_device():
    pixel, galaxy, locked = Device("PIXEL", "device"), Device("R5CT", "device"), Device("LOCKED", "unauthorized")
    for attached, serial in (([pixel], None), ([locked, pixel], None), ([pixel, galaxy], "PIXEL")):
        assert adb.choose_device(attached, serial) == pixel
    for attached, serial, message in (
        ([], None, "No Android device is attached.*USB debugging"),
        ([], "PIXEL", "No Android device is attached"),
        ([pixel, galaxy], None, r"\(PIXEL, R5CT\).*--serial"),
        ([pixel, galaxy], "PIXLE", "Unknown device 'PIXLE'.*Did you mean|Known: PIXEL, R5CT"),
        ([locked], None, "LOCKED is unauthorized: .*unlock the phone"),
        ([locked, pixel], "LOCKED", "LOCKED is unauthorized"),
        ([Device("OFF", "offline")], None, "OFF is offline: .*kill-server"),
        ([Device("USB", "no permissions")], None, "udev"),
        ([Device("REC", "recovery")], None, "REC is recovery: start Android"),
    ):
        with pytest.raises(RequestError, match=message):
            adb.choose_device(attached, serial)


def test_where_adb_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RequestError, match="adb was not found.*apt install adb.*--adb PATH"):
        adb.find_adb()
    with pytest.raises(RequestError, match=r"adb=.*\(--adb\): this is not an executable file"):
        adb.find_adb(str(tmp_path / "adb"))
    program = tmp_path / "platform-tools" / "adb"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    assert adb.find_adb() == adb.find_adb(str(program)) == str(program)


@pytest.mark.skipif(not shutil.which("adb"), reason="the real adb is missing; .ci/run installs adb")
def test_a_real_adb_without_a_phone(tmp_path, monkeypatch):
    with socket.socket() as free:  # a server of its own, which sees no phone over the network either
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
    program = adb.find_adb()
    try:
        attached = adb.devices(program)
        if not attached:
            with pytest.raises(RequestError, match="No Android device is attached"):
                adb.choose_device(attached)
        with pytest.raises(RequestError, match="failed with exit status 1: .*no-such-phone"):
            adb.run_adb(program, "-s", "no-such-phone", "shell", "true")
    finally:
        subprocess.run([program, "kill-server"], check=False, timeout=30)
