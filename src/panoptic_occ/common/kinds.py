"""What a setting may be and what it changes, as annotations: ``Share``, ``Annotated[int, Scope.RESULT]``.

The limits are those of ``annotated_types``, which pydantic reads (see ``config.schema``).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

from annotated_types import Ge, Gt, Interval, Lt, Predicate


class Scope(StrEnum):
    """What a setting changes; keys of folders, what ``run=`` inherits and what makes two results comparable follow.

    A parameter without a scope in its annotation has that of its group (``config.schema.GROUPS``) or of its class.
    """

    BASE = "base"  # the base's weights
    MODULE = "module"  # the occlusion module's weights
    DETECTIONS = "detections"  # what the network says in evaluation
    RESULT = "result"  # the fusion or the numbers
    INPUT = "input"  # which data is read: the digest of its content counts
    MACHINE = "machine"  # how a machine does the work, never what comes out
    COMMAND = "command"  # what one command does beside computing
    LABEL = "label"  # a name, or a value that other settings refer to: what it changes counts there


IN_GRID = "a grid may vary it"
"""Marks a parameter that training reads too, but that a grid over one set of weights may vary."""

Share = Annotated[float, Interval(ge=0, le=1)]
Positive = Annotated[float, Gt(0), Predicate(math.isfinite)]
NotNegative = Annotated[float, Ge(0), Predicate(math.isfinite)]
Count = Annotated[int, Ge(1)]
Size = Annotated[int, Ge(0)]
Area = Size | Annotated[float, Ge(0), Lt(1)]
"""Pixels, or below 1 a share of the image."""
