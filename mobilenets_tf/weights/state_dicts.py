"""Find the weights of a network in what a training script saved: unwrap containers, wrappers' names and averages."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from mobilenets_tf.errors import RequestError
from mobilenets_tf.weights.torch_pickle import Record, StoredTensor

Tensor = TypeVar("Tensor")

# Parts of names that wrappers put before a module's names: DataParallel and AveragedModel, torch.compile, FSDP,
# activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_AVERAGE = re.compile(r"(^|_)(ema|swa|averaged?|shadow)(_|$)")
# Where training scripts keep the network, in the order in which the keys are looked for.
_USUAL = (
    "state_dict", "model_state_dict", "model", "net", "network", "net_state_dict", "weights", "params", "module",
    "state", "backbone", "encoder", "student",
)  # fmt: skip


def of(loaded: Any) -> dict[str, StoredTensor]:
    """Return the tensors of a network by name, out of what torch.save was given.

    That is a state dict; a dict with one inside, at any depth; or a whole module. Where a moving average of the weights
    is there, and is complete, it is taken: training scripts evaluate it.

    Raises:
        RequestError: there are no tensors, or several state dicts of which none has a usual name.
    """
    if isinstance(loaded, StoredTensor) or not isinstance(loaded, (dict, Record)):
        kind = "tensor" if isinstance(loaded, StoredTensor) else type(loaded).__name__
        raise RequestError(f"it holds a {kind}, not a state dict of named tensors")
    found = _state_dicts(loaded)
    if not found:
        keys = [key for key in _entries(loaded) if isinstance(key, str)]
        told = f" among {', '.join(sorted(keys)[:8])[:200]}" if keys else ""
        raise RequestError(f"it holds no tensors{told}")
    plain = {path: tensors for path, tensors in found.items() if not _is_average(path)}
    averages = {path: tensors for path, tensors in found.items() if path not in plain}
    chosen = _chosen(plain or averages)
    for tensors in averages.values():
        if len(tensors) >= len(chosen) and set(without_wrappers(chosen)) <= set(without_wrappers(tensors)):
            return tensors
    return chosen


def without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the parts of the names out that DataParallel, torch.compile and the like put there.

    Raises:
        RequestError: two tensors have one name then.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if short in named:
            raise RequestError(f"it holds the tensor {short[:80]!r} twice, with and without the names of wrappers")
        named[short] = tensor
    return named


def of_network(tensors: Mapping[str, Tensor], prefixes: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors under one of ``prefixes``, without the prefix. Of a network and its moving average the average
    is taken.

    Raises:
        RequestError: there are several networks.
    """
    parts = {prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)} for prefix in prefixes}
    averages = [prefix for prefix in parts if _is_average(prefix.split("."))]
    plain = [prefix for prefix in parts if prefix not in averages]
    if len(plain) > 1 or (not plain and len(averages) > 1):
        raise RequestError(
            f"it holds several networks, under {', '.join(sorted(plain or averages)[:6])}; save the one that is meant"
        )
    for average in averages:
        if not plain or set(parts[plain[0]]) <= set(parts[average]):
            return parts[average]
    return parts[plain[0]]


def _is_average(path: Iterable[str]) -> bool:
    return any(map(_AVERAGE.search, path))


def _chosen(candidates: dict[tuple[str, ...], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    if () in candidates:
        return candidates[()]
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    for usual in _USUAL:
        for path, tensors in candidates.items():
            if path[-1] == usual or path[0] == usual:
                return tensors
    names = ", ".join(sorted(".".join(path)[:40] for path in candidates)[:6])
    raise RequestError(f"it holds several state dicts ({names}); save that of the network alone")


def _state_dicts(loaded: Any) -> dict[tuple[str, ...], dict[str, StoredTensor]]:
    """Return each dict that has tensors and each module, by the keys that lead there. States of optimizers are not
    among them, since their tensors are under numbers."""
    found: dict[tuple[str, ...], dict[str, StoredTensor]] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), loaded)]
    seen = set()
    while waiting:
        path, node = waiting.pop(0)
        if id(node) in seen or len(path) > 8:
            continue
        seen.add(id(node))
        if _is_module(node):
            tensors = _of_module(node)
        else:
            entries = _entries(node)
            tensors = {key: value for key, value in entries.items() if _is_named_tensor(key, value)}
            waiting += [
                ((*path, key), value)
                for key, value in entries.items()
                if isinstance(key, str) and isinstance(value, (dict, Record))
            ]
        if tensors:
            found[path] = tensors
    # A state dict has names with a point; the tensors in a dict of metrics have none.
    pointed = {path: tensors for path, tensors in found.items() if any("." in name for name in tensors)}
    return pointed or found


def _is_named_tensor(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, StoredTensor)


def _entries(node: Any) -> dict:
    """Return the items of a dict, or of an object: those of a dict's subclass and its attributes."""
    if isinstance(node, Record):
        return {**node.entries, **(node.state if isinstance(node.state, dict) else {})}
    return node


def _is_module(node: Any) -> bool:
    return isinstance(node, Record) and isinstance(node.state, dict) and isinstance(node.state.get("_modules"), dict)


def _of_module(root: Record) -> dict[str, StoredTensor]:
    """Return the state dict of a ``torch.nn.Module`` that was saved as a whole."""
    tensors: dict[str, StoredTensor] = {}
    waiting, seen = [("", root)], set()
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen or len(prefix) > 1000:
            continue
        seen.add(id(module))
        fleeting = module.state.get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            entries = module.state.get(kind)
            for key, value in entries.items() if isinstance(entries, dict) else ():
                if _is_named_tensor(key, value) and not (isinstance(fleeting, set) and key in fleeting):
                    tensors[prefix + key] = value
        waiting += [
            (f"{prefix}{key}.", child)
            for key, child in module.state["_modules"].items()
            if isinstance(key, str) and _is_module(child)
        ]
    return tensors
