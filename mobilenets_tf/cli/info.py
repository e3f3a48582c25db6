"""mobilenets-tf info"""

from mobilenets_tf import registry
from mobilenets_tf.cli.options import add_json, add_size, emit
from mobilenets_tf.files import to_json
from mobilenets_tf.worker import Worker

HELP = "Count a network's parameters, multiply-adds and memory, and show its outputs, features and weight sets."
EXAMPLE = "mobilenets-tf info mobilenet_v2 --alpha 0.5 --resolution 160"
SCHEMES = ("float32", "int8")


def add_arguments(parser):
    parser.add_argument("model", help="a registered name (see: mobilenets-tf list)")
    add_size(parser)
    parser.add_argument(
        "--arena",
        action="store_true",
        help="convert it, and measure the memory that LiteRT plans for its activations, without XNNPACK (seconds)",
    )
    add_json(parser)


def run(chosen):
    registry.check_size(registry.get(chosen.model), chosen.alpha, chosen.resolution)
    with Worker() as worker:  # which keeps TensorFlow's chatter to itself
        info = worker.call(_info, chosen.model, chosen.alpha, chosen.resolution, chosen.arena)
    if chosen.json:
        emit(to_json(info))
        return
    width = "" if info["alpha"] is None else f" alpha {info['alpha']}"
    emit(f"{info['name']}{width} at {info['resolution']}x{info['resolution']} ({info['source']})")
    emit(f"  trainable parameters  {info['params_trainable']:>15,}")
    emit(f"  total parameters      {info['params_total']:>15,}")
    emit(f"  multiply-adds         {info['macs']:>15,}")
    if folded := info["inference_form"]:
        emit(f"  folded for inference  {folded['params_trainable']:>15,} parameters, {folded['macs']:,} multiply-adds")
    peak, largest, split = info["peak_activation"], info["largest_tensor"], info["bottleneck_split"]
    emit(f"  peak activations      {peak['elements']:>15,} elements, at {peak['layer']}")
    emit(f"  largest tensor        {largest['elements']:>15,} elements, each bottleneck as one op")
    if split["n"] < peak["elements"]:
        emit(
            f"  bottlenecks in parts  {split['n']:>15,} elements, one inner channel at a time"
            f" (in 2 parts {split['2']:,}, in 4 {split['4']:,})"
        )
    for scheme, size in info.get("arena_bytes", {}).items():
        emit(f"  arena, {scheme:<14} {size:>15,} bytes")
    for output, shape in info["outputs"].items():
        emit(f"  output {output:<14} {'x'.join(map(str, shape)):>15}")
    for stride, shape in info["features"].items():
        emit(f"  features, stride {stride:<3}  {'x'.join(map(str, shape)):>15}")
    for record in info["weights"]:
        if record["alpha"] in (None, info["alpha"]):
            here = "on this machine" if record["installed"] else f"not here; {record['install']}"
            emit(f"  weights {record['tag']!r}: {record['source']}, {record['licence']} ({here})")


def _info(name: str, alpha: float | None, resolution: int | None, arena: bool) -> dict:
    from mobilenets_tf.factory import model_info

    info = model_info(name, alpha=alpha, resolution=resolution)
    if arena:
        info["arena_bytes"] = _arenas(name, alpha, resolution)
    return info


def _arenas(name: str, alpha: float | None, resolution: int | None) -> dict[str, int]:
    """Bytes of LiteRT's arena for each scheme; what is in the weights and ranges has no say in it."""
    import warnings

    import numpy as np

    from mobilenets_tf import create_model
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import SCHEMES as schemes
    from mobilenets_tf.quantize import Calibration
    from mobilenets_tf.tflite.arena import arena_bytes

    model = create_model(name, alpha=alpha, resolution=resolution)
    ramp = np.linspace(-1, 1, model.input_shape[1], dtype=np.float32)
    pictures = [part * (ramp[:, None, None] + ramp[None, :, None] * np.ones(3, np.float32)) for part in (0.3, 0.6, 1.0)]
    with Worker() as worker, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three pictures are few to calibrate with, and enough here
        converted = convert_model(model, schemes["int8"], Calibration(pictures), worker)
    contents = dict(zip(SCHEMES, (converted.float_content, converted.content), strict=True))
    return {scheme: arena_bytes(content) for scheme, content in contents.items()}
