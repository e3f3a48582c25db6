"""The script of the child process that compiles a TFLite file for an NPU, since vendors' compilers may crash.

Arguments: the file, a folder for the results, the folder of an AI pack, the vendor, the libraries' folders ("" if the
vendor's SDK is installed), the chips. Prints a line of JSON: for each chip the compiled file and LiteRT's statistics,
or the reason why it was not compiled.
"""

import contextlib
import importlib
import json
import sys
import types


def main(file: str, folder: str, pack: str, vendor: str, libraries: str, *chips: str) -> dict:
    """Compile a file for each chip."""
    from ai_edge_litert.aot import aot_compile
    from ai_edge_litert.aot.ai_pack import export_lib
    from ai_edge_litert.aot.vendors import fallback_backend

    module = importlib.import_module(f"ai_edge_litert.aot.vendors.{vendor}.target")
    if libraries:  # LiteRT asks a package of this name where the libraries are
        sys.modules["ai_edge_litert_sdk_qualcomm"] = types.SimpleNamespace(path_to_sdk_libs=lambda: libraries)
    targets = [module.Target(module.SocModel(chip)) for chip in chips]
    # The fallback is the file itself, for phones with other chips.
    result = aot_compile.aot_compile(file, folder, [*targets, fallback_backend.FallbackTarget()], keep_going=True)
    compiled = [pair for pair in result.models_with_backend if pair[0].id() != fallback_backend.FallbackBackend.id()]
    answers = {}
    for backend, model in compiled:
        for stats in model.partition_stats.subgraph_stats[:1]:
            answers[str(backend.soc_model)] = {
                "file": str(model.path), "operators": stats.num_total_ops, "taken": stats.num_ops_offloaded,
                "parts": stats.num_partitions_offloaded,
            }  # fmt: skip
    if compiled:  # the exporter takes the files into memory
        export_lib.export(result, pack, "ai_pack", "model")
    for backend, error in result.failed_backends:
        answers[str(backend.soc_model)] = {"error": str(error)}
    return answers


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        found = main(*sys.argv[1:])
    print(json.dumps(found))
