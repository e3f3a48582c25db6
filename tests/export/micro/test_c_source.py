"""The C++ sources: they compile, and the array holds the file."""

import re
import shutil
import subprocess

import pytest

from mobilenets_tf.export.micro.c_source import file_names, sources
from mobilenets_tf.export.micro.operators import resolver_calls
from mobilenets_tf.tflite.runtime import Runner, describe_tensor

# What main() takes of TFLM's headers, with the signatures of tensorflow/tflite-micro at operators.COMMIT.
STUBS = {
    "tensorflow/lite/c/common.h": """#pragma once
#include <cstddef>
#include <cstdint>
typedef enum { kTfLiteOk, kTfLiteError } TfLiteStatus;
union TfLitePtrUnion { int8_t* int8; uint8_t* uint8; float* f; int16_t* i16; int32_t* i32; };
struct TfLiteTensor { TfLitePtrUnion data; size_t bytes; };
#define TF_LITE_ENSURE_STATUS(a) do { const TfLiteStatus s = (a); if (s != kTfLiteOk) return s; } while (0)
""",
    "tensorflow/lite/schema/schema_generated.h": """#pragma once
#include <cstdint>
#define TFLITE_SCHEMA_VERSION 3
namespace tflite {
struct Model { uint32_t version() const { return 3; } };
inline const Model* GetModel(const void* data) { return static_cast<const Model*>(data); }
}
""",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """#pragma once
#include "tensorflow/lite/c/common.h"
namespace tflite {
struct MicroOpResolver {};
template <unsigned int count> struct MicroMutableOpResolver : MicroOpResolver {
ADDERS
};
}
""",
    "tensorflow/lite/micro/micro_interpreter.h": """#pragma once
#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
namespace tflite {
class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t) {
    in_.data.int8 = bytes_; in_.bytes = sizeof(bytes_); out_.data.int8 = bytes_; out_.bytes = 2;
  }
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  TfLiteStatus Invoke() { return kTfLiteOk; }
  TfLiteTensor* input(size_t) { return &in_; }
  TfLiteTensor* output(size_t) { return &out_; }
 private:
  int8_t bytes_[64]; TfLiteTensor in_, out_;
};
}
""",
    "tensorflow/lite/micro/system_setup.h": "#pragma once\nnamespace tflite { inline void InitializeTarget() {} }\n",
}


@pytest.fixture(scope="module")
def file(small_files):
    content = small_files["int8"].content
    runner = Runner(content)
    ends = [[describe_tensor(details) for details in each] for each in (runner.inputs, runner.outputs)]
    return content, sources("0 small-net_int8.tflite", content, 123456, *ends), ends


def test_the_array_is_the_file(file):
    content, written, _ = file
    header, array, main = file_names("0 small-net_int8.tflite")
    assert set(written) == {header, array, main}
    assert bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2}),", written[array])) == content
    assert "alignas(16)" in written[array] and "= 123456;" in written[header]
    registered = re.findall(r"resolver\.(\w+)\(\)", written[main])
    assert registered == resolver_calls(content)
    assert f"MicroMutableOpResolver<{len(registered)}>" in written[main]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_sources_compile_without_a_warning_and_run(file, tmp_path):
    """Against headers with the signatures of TFLM's; docs/microcontrollers.md says how to link with TFLM itself."""
    content, written, (_, (output,)) = file
    adders = "\n".join(f"  TfLiteStatus {call}() {{ return kTfLiteOk; }}" for call in resolver_calls(content))
    for name, text in {**STUBS, **written}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace("ADDERS", adders))
    units = [name for name in written if name.endswith(".cc")]
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-fno-rtti", f"-I{tmp_path}"]
    subprocess.run(["g++", *flags, *units, "-o", "model"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "model"], capture_output=True, text=True, check=True).stdout
    places = [line.split()[:2] for line in printed.splitlines()]
    assert places == [["0", "0"], ["0", "1"]]
    zero = float(printed.split()[2])  # main has filled in the input's zero point, which the stub gives back
    (input_,) = [describe_tensor(details) for details in Runner(content).inputs]
    assert zero == pytest.approx((input_["zero_point"] - output["zero_point"]) * output["scale"], rel=1e-5)


def test_names_cannot_leave_their_comment():
    tensor = {"name": 'a\n#include "/etc/passwd"\\', "dtype": "int8", "scale": 0.5, "zero_point": -3}
    content = b"no file"
    with pytest.raises(ValueError):
        sources("x.tflite", content, 1, [tensor], [tensor])  # not even for a file that is none
    from mobilenets_tf.export.micro import c_source

    text = c_source._filling(0, tensor)
    assert text.splitlines()[0].startswith("// a?#include") and not text.splitlines()[0].endswith("\\")
