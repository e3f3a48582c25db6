"""report.md: what the conversion gave and what it cost, on one page, out of the manifest alone."""


def render(file_name: str, manifest: dict) -> str:
    """Markdown for one deployed file."""
    extras = [*_per_tensor(manifest), *_mixed(manifest), *_tuning(manifest)]
    body = [*_result(manifest), *extras, "", *_how(manifest), ""]
    return "\n".join([f"# {file_name}", "", _verdict(manifest), "", *body])


def _verdict(manifest: dict) -> str:
    if manifest["passed"]:
        return "**Verified.** The float file equals Keras, and this file agrees with it as far as was asked."
    return "**A check failed.** " + " ".join(manifest["failures"])


def _result(manifest: dict) -> list[str]:
    parity, comparison = manifest["parity"], manifest["comparison"]
    size, float_size = manifest["bytes"], manifest["float32_bytes"]
    lines = [
        "| | float32 | " + manifest["scheme"] + " |",
        "|---|---|---|",
        f"| size | {float_size / 1e6:.2f} MB | {size / 1e6:.2f} MB ({float_size / size:.1f}x smaller) |",
    ]
    if comparison and comparison["top1"] is not None:
        for key in ("top1", "top5"):
            lines.append(
                f"| {key[:3]}-{key[3]} accuracy | {comparison['reference_' + key]:.1%} | {comparison[key]:.1%} |"
            )
    if comparison:
        lines += [
            f"| same answer as float32 | | {comparison['top1_agreement']:.1%} of {comparison['images']} images |",
            f"| float32's answer among the first five | | {comparison['top5_agreement']:.1%} |",
            f"| first place shared by several classes | | {comparison['ties']:.1%} |",
            f"| signal to noise | | {_db(comparison['snr_db'])} |",
        ]
    lines.append(
        f"\nKeras against the float32 file, {parity['images']} images: largest difference "
        f"{parity['relative_difference']:.1g} of the largest output."
    )
    if manifest["judged_on_calibration_images"]:
        lines.append(
            "\nJudged on the images that were used for calibration, without labels: give `--evaluate` for more."
        )
    return lines


def _per_tensor(manifest: dict) -> list[str]:
    """What a single scale for a layer's weights costs."""
    usual, single = manifest.get("per_channel"), manifest["comparison"]
    if not usual:
        return []
    rows = [("size", f"{usual['bytes'] / 1e6:.2f} MB", f"{manifest['bytes'] / 1e6:.2f} MB")]
    columns = (usual["comparison"], single)
    if single["top1"] is not None:
        rows.append(("top-1 accuracy", *(f"{column['top1']:.1%}" for column in columns)))
    rows.append(("same answer as float32", *(f"{column['top1_agreement']:.1%}" for column in columns)))
    rows.append(("signal to noise", *(_db(column["snr_db"]) for column in columns)))
    return [
        "",
        "## What one scale a tensor costs",
        "",
        "| | a scale for each channel | one scale a tensor (this file) |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _mixed(manifest: dict) -> list[str]:
    """The layers that were left in float to keep the drop within its bound."""
    mixed = manifest.get("mixed_precision")
    if not mixed:
        return []
    lines = ["", f"## Within a drop of {mixed['max_drop']:.2%}", ""]
    if not mixed["left"]:
        return [*lines, f"No layer had to stay float: all in integers loses {mixed['drop']:.2%}."]
    return [
        *lines,
        f"With all layers in integers the loss is {mixed['integer_drop']:.2%}, with {len(mixed['left'])} of "
        f"{mixed['layers']} in float {mixed['drop']:.2%}. {mixed['trials']} files were tried on the same images, so on "
        "others the loss may be somewhat more.",
        "",
        "| left in float | ops | noise of it alone, at the output | loss if it were integer | file | conversions | "
        "float weights |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {layer['layer']} | {', '.join(f'{n} {op}' for op, n in layer['operators'].items())} "
            f"| {_db(layer['output_db'])} | {layer['bought']:+.2%} | {layer['bytes'] / 1e3:+.1f} kB "
            f"| {layer['conversions']:+d} | {layer['weight_bytes'] / 1e3:.1f} kB |"
            for layer in mixed["left"]
        ),
    ]


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def _tuning(manifest: dict) -> list[str]:
    """What quantisation-aware fine-tuning bought."""
    if "fine_tuning" not in manifest:
        return []
    tuning, tuned = manifest["fine_tuning"], manifest["comparison"]
    usual = tuning["post_training"]
    accuracies = ", ".join(f"{value:.1%}" for value in tuning["validation_accuracies"])
    return [
        "",
        "| | float32 | post-training | fine-tuned |",
        "|---|---|---|---|",
        f"| top-1 accuracy | {tuned['reference_top1']:.1%} | {usual['top1']:.1%} | {tuned['top1']:.1%} |",
        f"| same answer as float32 | | {usual['top1_agreement']:.1%} | {tuned['top1_agreement']:.1%} |",
        "",
        f"Fine-tuned on {tuning['training_images']} images; accuracy on the validation images before training and "
        f"after each epoch: {accuracies}; the weights of epoch {tuning['best_epoch']} were kept.",
    ]


def _how(manifest: dict) -> list[str]:
    pre = manifest["preprocessing"]
    operators = ", ".join(f"{count} {name}" for name, count in manifest["operators"].items())
    lines = ["## What the app has to feed and read", ""]
    for kind in ("inputs", "outputs"):
        for tensor in manifest[kind]:
            line = f"- {kind[:-1]} `{tensor['name']}`: {tensor['dtype']} {tensor['shape']}"
            if tensor["scale"]:
                line += f", real value = {tensor['scale']:.8g} x (q - {tensor['zero_point']})"
            lines.append(line)
    lines += [
        f"- pixels: {_geometry(pre)}, then (pixel - {pre['mean']}) / {pre['std']} on 0-255 RGB",
        "",
        "## How it was made",
        "",
        f"- model: {', '.join(f'{key} {value}' for key, value in manifest['model'].items())}",
        f"- ops: {operators}",
        *_left_in_float(manifest),
        f"- versions: {', '.join(f'{name} {version}' for name, version in manifest['versions'].items())}",
    ]
    if calibration := manifest["calibration"]:
        lines.append(
            f"- calibration: {calibration['samples']} images, values {calibration['low']:.3f} to "
            f"{calibration['high']:.3f}, mean {calibration['mean']:.3f}"
        )
        lines += [f"- warning: {text}" for text in calibration["warnings"]]
    return lines


def _left_in_float(manifest: dict) -> list[str]:
    """What integer-only hardware would have to leave to the processor: attention, normalisation, chosen layers."""
    if not manifest["float_operators"]:
        return []
    counts = ", ".join(f"{count} {name}" for name, count in manifest["float_operators"].items())
    mixed = manifest.get("mixed_precision")
    why = "the layers above among them" if mixed and mixed["left"] else "being faster and more exact so"
    return [f"- left in float, {why}: {counts}"]


def _geometry(pre: dict) -> str:
    size = f"{pre['size']}x{pre['size']}"
    if pre["crop"] == "resize_then_crop":
        return f"resize the shorter side to {pre['resize']} ({pre['resampling']}), centre crop of {size}"
    return (
        f"centre crop of {pre['size'] / pre['resize']:.3f} of the shorter side, resize to {size} ({pre['resampling']})"
    )
