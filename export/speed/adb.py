"""Android's debug bridge ``adb``: find the program, list the attached devices, run its commands.

The output of a command comes from a phone and is not trusted: it is read up to a bound.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.export.speed.tool_output import MOST_LINE, printable
from mobilenets_tf.worker import ending_with_this_process

SECONDS = 60  # time limit for commands that should take no time
_MOST_OUTPUT = 4 << 20  # characters that are read of a command's output
_SDK_VARIABLES = ("ANDROID_HOME", "ANDROID_SDK_ROOT")
# State of a device that cannot be used -> what it means, and the remedy.
_STATES = {
    "unauthorized": "the phone has not allowed this computer: unlock the phone and allow USB debugging",
    "authorizing": "the phone is asking whether to allow this computer: unlock the phone and allow USB debugging",
    "offline": "the phone does not answer: plug it in again, or restart adb with 'adb kill-server'",
    "no permissions": "this user may not open the USB device: install your distribution's udev rules for Android",
}


@dataclass(frozen=True)
class Device:
    """An attached device, as ``adb devices`` lists it. state: "device" if it can be used."""

    serial: str
    state: str


def find_adb(path: str | None = None) -> str:
    """Find the adb program: ``path`` if it is given, else the one on PATH or in the Android SDK.

    Raises:
        RequestError: ``path`` is not an executable file, or adb is not found.
    """
    if path:
        if program := shutil.which(path):
            return program
        raise RequestError(f"adb={path!r} (--adb): this is not an executable file.")
    folders = [Path(os.environ[name], "platform-tools") for name in _SDK_VARIABLES if os.environ.get(name)]
    for candidate in ("adb", *(str(folder / "adb") for folder in folders)):
        if program := shutil.which(candidate):
            return program
    raise RequestError(
        "adb was not found. Install Android's platform tools (Debian and Ubuntu: apt install adb; elsewhere with "
        "Android Studio's SDK manager), or give the path of adb (adb=..., --adb PATH)."
    )


def devices(adb: str) -> list[Device]:
    """List the attached devices, including those that cannot be used.

    Raises:
        RequestError: adb cannot be run, or fails.
    """
    attached = []
    for line in run_adb(adb, "devices").splitlines():
        serial, _, state = line.strip().partition("\t")
        if state:
            state = next((known for known in _STATES if state.startswith(known)), state.strip())
            attached.append(Device(printable(serial), printable(state)))
    return attached


def choose_device(attached: Sequence[Device], serial: str | None = None) -> Device:
    """Return the device with the serial number, or without one the only device that can be used.

    Raises:
        RequestError: no device is attached, none or several can be used, or no device has the serial number. The
            message gives the remedy.
    """
    if serial is not None and attached:
        if serial not in (serials := [device.serial for device in attached]):
            raise unknown("device", serial, serials)
        attached = [device for device in attached if device.serial == serial]
    usable = [device for device in attached if device.state == "device"]
    if len(usable) == 1:
        return usable[0]
    if usable:
        serials = ", ".join(device.serial for device in usable)
        raise RequestError(f"Several devices are attached ({serials}); choose one of them (serial=..., --serial).")
    if not attached:
        raise RequestError(
            "No Android device is attached. Connect a phone by USB, switch on USB debugging on the phone (Settings, "
            "Developer options) and allow this computer; 'adb devices' then lists the phone."
        )
    reasons = (
        f"{device.serial} is {device.state}: {_STATES.get(device.state, 'start Android on the phone')}"
        for device in attached
    )
    raise RequestError(f"No attached device can be used. {'; '.join(reasons)}.")


def run_adb(adb: str, *arguments: str, seconds: float = SECONDS) -> str:
    """Run an adb command and return what it prints, including its errors.

    Raises:
        RequestError: adb cannot be started, fails, takes longer than ``seconds``, or prints more than 4 MB.
    """
    what = f"adb {' '.join(arguments)[:100]}"
    try:
        process = subprocess.Popen(
            ending_with_this_process([adb, *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that the processes that adb starts can be ended with it
        )
    except OSError as error:
        raise RequestError(f"{adb} cannot be run: {error.strerror or error}.") from error

    def stop():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    started = time.monotonic()
    timer = threading.Timer(seconds, stop)
    timer.start()
    with process:
        try:
            text = process.stdout.read(_MOST_OUTPUT + 1)
            if len(text) > _MOST_OUTPUT:
                raise RequestError(f"{what} printed more than {_MOST_OUTPUT:,} characters and was ended.")
            process.wait()
        except BaseException:
            stop()
            raise
        finally:
            timer.cancel()
    if process.returncode == -signal.SIGKILL and time.monotonic() - started >= seconds:
        raise RequestError(f"{what} took more than {seconds:g} s.")
    if process.returncode:
        message = " | ".join(printable(line) for line in text.splitlines()[-3:] if line.strip())
        raise RequestError(f"{what} failed with exit status {process.returncode}: {message[:MOST_LINE]}")
    return text
