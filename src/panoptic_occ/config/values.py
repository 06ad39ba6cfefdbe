"""Whether a value is what an annotation says (pydantic decides), and what is wrong with it when not."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Lt

from panoptic_occ.common.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")
PLAIN = (str, int, float, list, tuple, NoneType)
WORDS: Mapping[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    dict: "keys with values, as {key: value}",
    NoneType: "null",
}
OBJECTS = {"needs_python_object", "is_instance_of", "callable_type"}
"""Pydantic's errors about kinds that no file can hold, such as modules: a value is never wrong by them."""


def checked(group: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes a function or constructor refuse plain arguments that are not what their annotations say, by ConfigError;
    ``group``: of the configuration, where they are set."""

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            signature = _signature(function)
            arguments = signature.bind(*args, **kwargs).arguments
            plain = {name: value for name, value in arguments.items() if isinstance(value, PLAIN)}
            check_values(group, plain, signature.parameters)
            return function(*args, **kwargs)

        return call

    return decorated


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function, eval_str=True)


def check_values(group: str, values: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    """ConfigError for a value that is not what the annotation of its parameter says."""
    for name, value in values.items():
        parameter = parameters.get(name)
        if parameter is None or (value is None and parameter.default is None):
            continue
        if wrong := problem(f"{group}.{name}", value, parameter.annotation):
            raise ConfigError(wrong)


def problem(key: str, value: object, kind: object) -> str | None:
    """What is wrong with ``key=value``, what is allowed, and the closest of it; None when nothing is."""
    if fits(value, kind):
        return None
    close = get_close_matches(str(value), [str(word) for word in _literals(kind)], n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    if type(value) in (int, float) and is_text(kind):
        hint = f"write '{key}=\"{value}\"'; "
    return f"{key}={shown(value)}: {hint}allowed: {words(kind)}"


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of a configuration is of ``kind``; an integer is a number, nothing else is converted."""
    from pydantic import ValidationError

    if isinstance(value, float) and math.isnan(value):
        return False
    try:
        _validate(kind)(json.dumps(value, default=str))
    except ValidationError as error:
        return all(part["type"] in OBJECTS for part in error.errors(include_url=False, include_input=False))
    return True


@cache
def _validate(kind: Any) -> Callable[[str], object]:
    """Strict validation as JSON: there a list stands for a tuple too, and text for a path."""
    from pydantic import ConfigDict, TypeAdapter

    if is_dataclass(kind):  # which a configuration describes by keys
        kind = dict[str, Any]
    settings = ConfigDict(strict=True, arbitrary_types_allowed=True)
    return TypeAdapter(kind, config=settings).validate_json


def is_text(kind: Any) -> bool:
    """Whether ``kind`` is text or a path, so that a number in its place is meant as text."""
    parts = set(get_args(kind)) if get_origin(kind) in (Union, UnionType) else {kind}
    return bool(parts) and parts <= {str, Path, NoneType}


def is_path(kind: Any) -> bool:
    """Whether ``kind`` names a place on a disk."""
    return kind is Path or any(is_path(part) for part in get_args(kind))


def words(kind: Any) -> str:
    """What ``kind`` allows, for a message."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([words(parts[0]), *filter(None, map(_limits, parts[1:]))])
    if origin in (Union, UnionType):
        texts = (words(part) for part in parts if part is not Path or str not in parts)
        return ", or ".join(dict.fromkeys(text for several in texts for text in several.split(", or ")))
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin is tuple and ... not in parts:
        return f"a list of {len(parts)}, each {words(parts[0])}"
    if origin in (list, tuple, Sequence):
        return f"a list, each {words(parts[0])}"
    if origin in (dict, Mapping):
        return f"{WORDS[dict]}, each {words(parts[1])}"
    return WORDS[dict] if is_dataclass(kind) else WORDS.get(kind, str(kind))


def _limits(limit: object) -> str:
    match limit:
        case Interval(ge=low, le=high):
            return f"{low} to {high}"
        case Ge(ge=low):
            return f"{low} or more"
        case Gt(gt=low):
            return f"above {low}"
        case Lt(lt=high):
            return f"below {high}"
        case _:
            return ""


def shown(value: object) -> str:
    """A value as one types it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return value if isinstance(value, str) and value else repr(value)


def _literals(kind: Any) -> Iterator[object]:
    """All words that ``kind`` lists."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    else:
        for part in get_args(kind):
            yield from _literals(part)
