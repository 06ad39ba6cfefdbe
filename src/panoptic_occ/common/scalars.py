"""Whole numbers and truth values as people write them into JSON: 12 or "12"; 1, true or "True"."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
_TRUTH = {"0": False, "false": False, "1": True, "true": True}
TRUTH_VALUES = "0, 1, true or false"
"""What a truth value may be, for messages; as text too."""


def whole_number(value: object) -> int:
    """A number without a fraction, or its decimal digits; ValueError for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and _WHOLE.fullmatch(value)):
        return int(value)
    raise ValueError(f"{value!r} is no whole number")


def truth_value(value: object) -> bool:
    """One of ``TRUTH_VALUES``, or its text in any case; ValueError for anything else."""
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and (word := value.strip().lower()) in _TRUTH:
        return _TRUTH[word]
    raise ValueError(f"{value!r} is no truth value; allowed: {TRUTH_VALUES}")
