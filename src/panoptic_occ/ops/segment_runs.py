"""Panoptic maps as runs of equal pixels: they are piecewise constant, so a few per cent of the pixels say everything.
Nothing here imports torch, so that evaluation workers start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Int64

_SLOTS, _SHIFT = 2**12, np.uint32(32 - 12)
_FACTORS = (np.arange(1, 32, 2, dtype=np.uint32) * np.uint32(2654435769)).tolist()
"""Odd multiples of 2^32 / golden ratio (multiplicative hashing); the first without collisions is taken."""

_HASHABLE = 128
"""So many ids find a factor without collisions nine times in ten; far more of them never would."""


def run_starts(*maps: Int[np.ndarray, " p"]) -> Int64[np.ndarray, " r"]:
    """First pixels of the runs in which each of the flat ``maps`` stays the same."""
    change = maps[0][1:] != maps[0][:-1]
    for other in maps[1:]:
        change |= other[1:] != other[:-1]
    return np.concatenate(([0], np.flatnonzero(change) + 1))[: maps[0].size]  # an empty map has no run


def unique_counts(ids: Int[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, " u"], Int64[np.ndarray, " u"]]:
    """``numpy.unique`` of a map with counts: the ids that occur, ascending, and their pixels."""
    values, _, _, counts = _unique_runs(ids)
    return values, counts


def unique_ids(
    ids: Int[np.ndarray, "h w"],
) -> tuple[Int[np.ndarray, " u"], Int64[np.ndarray, "h w"], Int64[np.ndarray, " u"]]:
    """``numpy.unique`` of a map with inverse and counts; ask ``unique_counts`` when the inverse is not needed."""
    values, run, lengths, counts = _unique_runs(ids)
    return values, np.repeat(run, lengths).reshape(ids.shape), counts


def _unique_runs(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The ids that occur, the position of every run among them, the lengths of the runs, the pixels of every id."""
    flat = ids.reshape(-1)
    starts = run_starts(flat)
    lengths = np.diff(starts, append=flat.size)
    run_ids = flat[starts]
    values = np.unique(run_ids)
    run, _ = positions(run_ids, values)
    return values, run, lengths, np.bincount(run, weights=lengths, minlength=len(values)).astype(np.int64)


def positions(
    values: Int[np.ndarray, " n"], keys: Int[np.ndarray, " k"]
) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Position of each value in ``keys`` (ascending, not empty), and whether it is there; if not, any position."""
    place = _hashed_positions(values, keys) if len(keys) <= _HASHABLE else None
    if place is None:
        place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return place, keys.take(place, mode="clip") == values


def _hashed_positions(values: np.ndarray, keys: np.ndarray) -> Int64[np.ndarray, " n"] | None:
    """The only position in ``keys`` that each value can have; None when every hash has a collision.  A binary search of
    a few ids is mostly mispredicted branches, and as slow as finding the runs."""
    narrow = keys.astype(np.uint32)
    for factor in _FACTORS:
        slots = (narrow * factor) >> _SHIFT
        if len(set(slots.tolist())) == len(keys):
            place_of = np.zeros(_SLOTS, dtype=np.int64)
            place_of[slots] = np.arange(len(keys))
            slot = (values.astype(np.uint32) * factor) >> _SHIFT
            # clip: take is faster when it need not look for bad indices first
            return place_of.take(slot.astype(np.int64), mode="clip")
    return None
