"""A network as data: a registered network with other rows, options and widths. A search writes plans."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mobilenets_tf import registry
from mobilenets_tf.data.text_files import read_json, shown
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import to_json, write_together

FORMAT = "mobilenets_tf.plan.1"
_KEYS = {"format", "network", "options", "channels"}
# What a plan, which may come from elsewhere, does not decide: files to read, and downloads.
_NOT_OF_PLANS = ("weights", "fetch", "convention", "input_shape")
_MOST_GROUPS = 10_000


@dataclass(frozen=True)
class Plan:
    """A network that ``create_model`` builds.

    network: a registry name; ``list_models()`` gives all.
    options: arguments of ``create_model`` that JSON can hold: alpha, resolution, classes, rows, ...
    channels: name of a group of channels, as ``channel_groups`` names the groups of the network with these options ->
        how many channels it keeps.

    Raises:
        RequestError: the network is unknown, an option is not for plans, or a number of channels is not above 0.
    """

    network: str
    options: Mapping[str, Any] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self):
        registry.get(self.network)
        for name in ("options", "channels"):
            if not isinstance(getattr(self, name), Mapping):
                raise RequestError(f"{name}={getattr(self, name)!r:.100}: expected names and their values.")
        for option in _NOT_OF_PLANS:
            if option in self.options:
                raise RequestError(f"A plan has no option {option!r}. Give it to create_model, beside the plan.")
        for name in ("options", "channels"):
            object.__setattr__(self, name, _plain(getattr(self, name), name))
        if len(self.channels) > _MOST_GROUPS:
            raise RequestError(f"A plan has at most {_MOST_GROUPS} groups of channels; received {len(self.channels)}.")
        for group, number in self.channels.items():
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise RequestError(f"channels[{group!r:.100}]={number!r:.100}: expected a whole number above 0.")

    @staticmethod
    def of(model: "str | os.PathLike[str] | Plan") -> "Plan":
        """Return a plan: the plan itself, that of a ``.json`` file, or that of a registered network as published.

        Raises:
            RequestError: the name is unknown, or the file cannot be read or is not a plan.
        """
        if isinstance(model, Plan):
            return model
        if isinstance(model, str) and not model.endswith(".json"):
            return Plan(model)
        return Plan.read(model)

    @staticmethod
    def read(file: str | os.PathLike[str]) -> "Plan":
        """Read a plan from its JSON file.

        Raises:
            RequestError: the file cannot be read, is not JSON, or is not a plan.
        """
        return Plan.of_plain(read_json(file), shown(file))

    @staticmethod
    def of_plain(content: Any, where: str) -> "Plan":
        """Return the plan that ``plain`` has described. where: what the content is from, for messages.

        Raises:
            RequestError: the content is no such description.
        """
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RequestError(f'{where} is not a plan: expected a JSON object with "format": "{FORMAT}".')
        if wrong := sorted(set(content) - _KEYS):
            raise RequestError(f"{where} has the unknown key {wrong[0]!r:.100}; a plan has {', '.join(_KEYS)}.")
        try:
            return Plan(content.get("network", ""), content.get("options", {}), content.get("channels", {}))
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from error

    def write(self, file: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all.

        Raises:
            RequestError: the file cannot be written.
        """
        write_together(Path(file).parent, {Path(file).name: self.to_json()})

    def to_json(self) -> str:
        """Return the plan as JSON; equal plans give equal text."""
        return to_json(self.plain())

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain data, as it is in its file."""
        about = {"format": FORMAT, "network": self.network, "options": dict(self.options)}
        return {**about, "channels": dict(self.channels)}


def _plain(value: Any, name: str) -> Any:
    """Return what JSON makes of a value: NumPy's numbers and arrays as numbers and lists.

    Raises:
        RequestError: JSON has nothing for the value.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each, f"{name}[{str(key)[:100]!r}]") for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, f"{name}[{place}]") for place, each in enumerate(value)]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise RequestError(f"{name}={value!r:.100}: a plan holds numbers, texts, True, False, None and lists of these.")
