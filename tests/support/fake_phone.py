"""A fake phone: a folder, an adb that is a shell script working in the folder, recorded output of benchmark_model."""

import shutil
from pathlib import Path

from mobilenets_tf.export.speed.phone import PhoneRequest, benchmark_on_phone

RECORDINGS = Path(__file__).parent / "recordings"
AARCH64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(64)  # the head of an executable for arm64


def recorded(name: str) -> str:
    """Return the output of the real tool in the recording with that name."""
    return (RECORDINGS / f"{name}.txt").read_text()


FAKE_ADB = """#!/bin/sh
# A phone in the folder $PHONE: files pushed to /data/local/tmp go to $PHONE/tmp, and the shell runs there. A command
# goes on when this script is killed, as on a phone.
[ "$1" = -s ] && { echo "serial $2" >> "$PHONE/log"; shift 2; }
there() { echo "$1" | sed "s#/data/local/tmp#$PHONE/tmp#g"; }
case "$1" in
devices)
    printf 'List of devices attached\\n* daemon started successfully\\n'
    printf 'PHONE1\\tdevice\\nOTHER\\tunauthorized\\n\\n' ;;
push)
    echo "push $2 $3" >> "$PHONE/log"
    [ -e "$2" ] || { echo "adb: error: cannot stat '$2'"; exit 1; }
    cp "$2" "$(there "$3")"
    # The tool is built for another processor; the script FAKE_TOOL replaces it.
    case "$3" in */benchmark_model) cp "$PHONE/tool" "$(there "$3")"; esac ;;
shell)
    echo "shell $2" >> "$PHONE/log"
    PATH="$PHONE/bin:$PATH" setsid -w sh -c "$(there "$2")" > "$PHONE/printed" 2>&1
    status=$?
    cat "$PHONE/printed"
    exit $status ;;
esac
"""
FAKE_TOOL = """#!/bin/sh
printf '%s\\n' "$@" > "$PHONE/arguments"
echo $$ > "$PHONE/running"
[ -e "$PHONE/slow" ] && exec sleep 300
cat "$PHONE/recording"
exit $(cat "$PHONE/status")
"""
FAKE_GETPROP = """#!/bin/sh
case $1 in
ro.product.model) echo "Fake Phone" ;;
ro.build.version.release) echo 14 ;;
ro.product.cpu.abilist) echo arm64-v8a,armeabi-v7a ;;
esac
"""
FAKE_TASKSET = """#!/bin/sh
echo "$1" > "$PHONE/cores"
shift
exec "$@"
"""


class Phone:
    """A folder that stands for a phone, with an adb, a tool and a model for the functions under test."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "tmp").mkdir()
        (folder / "bin").mkdir()
        for name, content in (
            ("adb", FAKE_ADB),
            ("tool", FAKE_TOOL),
            ("bin/getprop", FAKE_GETPROP),
            ("bin/taskset", FAKE_TASKSET),
        ):
            (folder / name).write_text(content)
            (folder / name).chmod(0o755)
        self.adb = str(folder / "adb")
        self.binary = folder / "the tool"
        self.binary.write_bytes(AARCH64)
        self.model = folder / "my $(touch hacked) net.tflite"
        self.model.write_bytes(b"a model")
        self.prints("percentiles")

    def prints(self, recording, status=0):
        shutil.copy(RECORDINGS / f"{recording}.txt", self.folder / "recording")
        (self.folder / "status").write_text(str(status))

    def run(self, files=(), **options):
        request = PhoneRequest(files or [self.model], str(self.binary), adb=self.adb, **options)
        return benchmark_on_phone(request).files

    def log(self):
        return (self.folder / "log").read_text().splitlines()

    def left(self):
        return list((self.folder / "tmp").iterdir())
