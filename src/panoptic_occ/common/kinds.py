"""What a setting may be, said by an annotation (``Share``, ``int | None``), and what is wrong with a value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

WORDS: Mapping[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "keys with values, as {key: value}",
    None: "null",
    NoneType: "null",
}


@dataclass(frozen=True)
class Range:
    """Limits of a number in ``Annotated``, both allowed, ``low`` not if ``above``."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and math.isfinite(value) and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.above:
            return f"above {self.low}"
        return f"{self.low} or more" if math.isinf(self.high) else f"{self.low} to {self.high}"


Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, above=True)]
Count = Annotated[int, Range(1)]
Size = Annotated[int, Range(0)]


def problem(key: str, value: object, kind: object) -> str | None:
    """What is wrong with ``key=value``, what is allowed, and the closest of it; None when nothing is."""
    if fits(value, kind):
        return None
    close = get_close_matches(str(value), [str(choice) for choice in _choices(kind)], n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    if kind in (str, str | None) and type(value) in (int, float):
        hint = f"write '{key}=\"{value}\"'; "
    return f"{key}={shown(value)}: {hint}allowed: {words(kind)}"


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of a configuration is what ``kind`` says; anything is, where that is no plain type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fits(value, parts[0]) and all(value in part for part in parts[1:] if isinstance(part, Range))
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple and ... not in parts:
        return isinstance(value, list) and len(value) == len(parts) and all(map(fits, value, parts))
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(fits(item, parts[1]) for item in value.values())
    if kind is float:
        return type(value) in (int, float) and not math.isnan(value)
    if kind in (bool, int, str, dict):
        return type(value) is kind
    return value is None if kind in (None, NoneType) else True


def words(kind: Any) -> str:
    """What ``kind`` allows, for a message."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([words(parts[0]), *(str(part) for part in parts[1:])])
    if origin in (Union, UnionType):
        return ", or ".join(words(part) for part in parts)
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin is tuple and ... not in parts:
        return f"a list of {len(parts)}, each {words(parts[0])}"
    if origin in (list, tuple, Sequence):
        return f"a list, each {words(parts[0])}"
    if origin in (dict, Mapping):
        return f"{WORDS[dict]}, each {words(parts[1])}"
    return WORDS[kind] if kind in WORDS else str(kind)


def shown(value: object) -> str:
    """A value as one types it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return value if isinstance(value, str) and value else repr(value)


def _choices(kind: Any) -> list[object]:
    """All words that ``kind`` allows."""
    parts = get_args(kind)
    return list(parts) if get_origin(kind) is Literal else [choice for part in parts for choice in _choices(part)]
