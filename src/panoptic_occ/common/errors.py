"""Errors of the suite: one clear message that names the file, the value, what is allowed and the fix."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import get_args


class PanopticOccError(Exception):
    """Base class of every error that the suite raises on purpose; the commands print it without a traceback."""


class DataError(PanopticOccError, ValueError):
    """Something in a data set is missing, broken or contradicts itself."""


class ConfigError(PanopticOccError, ValueError):
    """A configuration value, key or combination is not allowed."""


class CheckpointError(PanopticOccError, RuntimeError):
    """A checkpoint or run folder cannot be used here."""


class NonFiniteLossError(PanopticOccError, FloatingPointError):
    """A loss became NaN or infinite."""


class SweepError(PanopticOccError, RuntimeError):
    """Jobs of a sweep have no result; the others do."""


def did_you_mean(value: object, allowed: Iterable[object]) -> str:
    """The end of an error message: the closest allowed value, if any, then all of them."""
    names = sorted(str(name) for name in allowed)
    close = get_close_matches(str(value), names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}allowed: {', '.join(names) if names else '(none)'}"


def check_choice(key: str, value: object, kind: object) -> None:
    """ConfigError unless ``value`` is one of the words of ``kind``, a Literal."""
    if value not in get_args(kind):
        raise ConfigError(f"{key}={value!r} is unknown; {did_you_mean(value, get_args(kind))}")
