"""Which files LiteRT's GPU accelerator takes whole: the script of a child process, and the function that starts it.

The script compiles one file after another, which takes a tenth of a second each; a process for each takes a second.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def compile_whole(environment, contents, folder):
    """For each content, whether the accelerator takes every operator; None where compiling it ended the process."""
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}.tflite")
        paths[-1].write_bytes(content)
    answers = []
    while len(answers) < len(paths):
        words = [sys.executable, __file__, *map(str, paths[len(answers) :])]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", env=os.environ | environment)
        answers += [json.loads(line) for line in done.stdout.splitlines() if line in ("true", "false")]
        if len(answers) < len(paths):
            assert done.returncode, done.stderr[-2000:]
            answers.append(None)
    return answers


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from ai_edge_litert.compiled_model import CompiledModel, GpuOptions, HardwareAccelerator, Options

    for path in sys.argv[1:]:
        gpu = GpuOptions(enforce_f32=True)
        try:
            model = CompiledModel.from_file(path, options=Options(HardwareAccelerator.GPU, gpu_options=gpu))
            whole = model.is_fully_accelerated()
        except RuntimeError:
            whole = False
        print(json.dumps(whole), file=answers, flush=True)
        Path(path).unlink()


if __name__ == "__main__":
    main()
