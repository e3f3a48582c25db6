"""Write a file as C++ for TensorFlow Lite Micro (TFLM): the array, the resolver's lines and a ``main()``."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mobilenets_tf.export.micro.operators import resolver_calls

_PER_LINE = 16
_TYPES = {"float32": "float", "int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t"}
_FIELDS = {"float32": "f", "int8": "int8", "uint8": "uint8", "int16": "i16", "int32": "i32"}


def file_names(file_name: str) -> tuple[str, str, str]:
    """Give the names of the C++ files that belong to a ``.tflite`` file: header, array, main."""
    stem = _identifier(Path(file_name).stem)
    return f"{stem}_model.h", f"{stem}_model.cc", f"{stem}_main.cc"


def sources(
    file_name: str, content: bytes, arena_bytes: int, inputs: Sequence[dict], outputs: Sequence[dict]
) -> dict[str, str]:
    """Write the C++ files of a ``.tflite`` file.

    Args:
        file_name: of the ``.tflite`` file. content: of that file.
        arena_bytes: of the arena in ``main``.
        inputs, outputs: name, dtype, scale and zero_point of each, as the manifest has them.

    Returns:
        Name of each file -> its text.
    """
    header, array, main = file_names(file_name)
    name = _identifier(Path(file_name).stem)
    return {
        header: _header(name, file_name, arena_bytes),
        array: _array(name, header, content),
        main: _main(name, header, resolver_calls(content), inputs, outputs),
    }


def _identifier(text: str) -> str:
    """Turn a name into one that C++ takes."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    return name if re.match(r"[A-Za-z]", name) else f"model_{name}"


def _header(name: str, file_name: str, arena_bytes: int) -> str:
    return f"""// {_comment(file_name)} for TensorFlow Lite Micro. Written by mobilenets_tf.
#ifndef {name.upper()}_MODEL_H_
#define {name.upper()}_MODEL_H_

#include <cstddef>

extern const unsigned char g_{name}[];
extern const size_t g_{name}_size;

// The least arena with TFLM's reference kernels on a 64-bit machine, in bytes. Pointers of 32 bits need less; kernels
// of a processor, such as CMSIS-NN's, need scratch memory in addition.
constexpr size_t k_{name}_arena_size = {arena_bytes};

#endif  // {name.upper()}_MODEL_H_
"""


def _array(name: str, header: str, content: bytes) -> str:
    lines = (
        "    " + "".join(f"0x{byte:02x}," for byte in content[start : start + _PER_LINE])
        for start in range(0, len(content), _PER_LINE)
    )
    values = "\n".join(lines)
    return f"""#include "{header}"

alignas(16) const unsigned char g_{name}[] = {{
{values}
}};
const size_t g_{name}_size = sizeof(g_{name});
"""


def _main(name: str, header: str, calls: Sequence[str], inputs: Sequence[dict], outputs: Sequence[dict]) -> str:
    registered = "\n".join(f"  TF_LITE_ENSURE_STATUS(resolver.{call}());" for call in calls)
    fillings = "\n".join(_filling(place, tensor) for place, tensor in enumerate(inputs))
    fill = "\n".join(f"  FillInput{place}(interpreter.input({place}));" for place in range(len(inputs)))
    printing = "\n".join(_printing(place, tensor) for place, tensor in enumerate(outputs))
    return f"""// Runs g_{name} once in TensorFlow Lite Micro and prints its outputs. Written by mobilenets_tf.
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "{header}"
#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {{

using Resolver = tflite::MicroMutableOpResolver<{len(calls)}>;

alignas(16) uint8_t g_arena[k_{name}_arena_size];

TfLiteStatus RegisterOps(Resolver& resolver) {{
{registered}
  return kTfLiteOk;
}}

{fillings}
}}  // namespace

int main() {{
  tflite::InitializeTarget();
  const tflite::Model* model = tflite::GetModel(g_{name});
  if (model->version() != TFLITE_SCHEMA_VERSION) {{
    std::printf("schema version %d, expected %d\\n", static_cast<int>(model->version()), TFLITE_SCHEMA_VERSION);
    return 1;
  }}
  static Resolver resolver;
  if (RegisterOps(resolver) != kTfLiteOk) return 1;
  static tflite::MicroInterpreter interpreter(model, resolver, g_arena, sizeof(g_arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;
{fill}
  if (interpreter.Invoke() != kTfLiteOk) return 1;
{printing}
  return 0;
}}
"""


def _filling(place: int, tensor: dict) -> str:
    """Write the function that fills an input."""
    kind, scale, zero = tensor["dtype"], tensor["scale"], tensor["zero_point"]
    value = f"static_cast<{_TYPES[kind]}>({zero})"
    how = f"stored = round(real / {scale:.9g}) {_signed(zero)}" if scale else "stored as it is"
    return f"""// {_comment(tensor["name"])}: {how}. Here, zeros; the application copies its image.
void FillInput{place}(TfLiteTensor* input) {{
  {_TYPES[kind]}* values = input->data.{_FIELDS[kind]};
  for (size_t i = 0; i < input->bytes / sizeof(*values); ++i) values[i] = {value};
}}
"""


def _printing(place: int, tensor: dict) -> str:
    """Write the lines of ``main`` that print an output as real numbers."""
    kind, scale, zero = tensor["dtype"], tensor["scale"], tensor["zero_point"]
    value = f"(values[i] {_signed(-zero)}) * {_double(scale)}" if scale else "static_cast<double>(values[i])"
    return f"""  {{  // {_comment(tensor["name"])}
    const TfLiteTensor* output = interpreter.output({place});
    const {_TYPES[kind]}* values = output->data.{_FIELDS[kind]};
    for (size_t i = 0; i < output->bytes / sizeof(*values); ++i) {{
      std::printf("{place} %zu %.6g\\n", i, {value});
    }}
  }}"""


def _double(number: float) -> str:
    """Write a number as a double, whole numbers too."""
    text = f"{number:.9g}"
    return f"{text}.0" if text.isdigit() else text


def _signed(number: int) -> str:
    """Write a term of a sum with its sign."""
    return f"{'-' if number < 0 else '+'} {abs(number)}"


def _comment(text: str) -> str:
    """Make a name fit for a comment of one line."""
    return "".join(_printable(text))[:80].replace("\\", "/")


def _printable(text: str) -> Iterator[str]:
    return (character if character.isascii() and character.isprintable() else "?" for character in text)
