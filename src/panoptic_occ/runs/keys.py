"""What trained weights and stored predictions depend on, as the keys in the names of their folders (``plan``)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

BASE_VERSION = 3
"""Raise it when a change of the code changes what a base trained by the same configuration becomes."""

Values = Mapping[str, Any]
"""Settings by dotted key, chosen by their scope (``config.schema.values_of``)."""


def base_key(values: Values) -> str:
    """Ten hex digits over everything that the weights of a base depend on."""
    return digest({"version": BASE_VERSION, **values})


def module_key(base: str, values: Values, schedule: Mapping[str, Any]) -> str:
    """Ten hex digits over everything that a trained occlusion module depends on: the base of this key, its settings,
    and how it trains."""
    return digest({"base": base, **values, "schedule": schedule})


def predictions_key(settings: Values) -> str:
    """Ten hex digits over what stored detections depend on."""
    return digest(settings)


def digest(value: object) -> str:
    """Ten hex digits over plain values; 1 and 1.0 are one number."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True, default=str).encode()).hexdigest()[:10]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def differences(before: Values, after: Values) -> str:
    """Which settings differ, as ``key: old -> new``, the first few of them; empty when none does."""
    differing = [k for k in sorted(before.keys() | after.keys()) if before.get(k) != after.get(k)]
    return "; ".join(f"{key}: {before.get(key)} -> {after.get(key)}" for key in differing[:5])


def name_of_words(words: Iterable[str]) -> str:
    """Words of a command line as part of a file name; empty without any."""
    pairs = (word.replace("~", "no-").lstrip("+").partition("=")[::2] for word in words)
    parts = sorted(value if key == "experiment" else f"{key}-{value}" for key, value in pairs)
    text = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", item).strip("-") for item in parts)
    return text if len(text) <= 100 else hashlib.sha256(text.encode()).hexdigest()[:12]
