"""Claims: the pixels that each instance may take, where methods give them away one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from panoptic_occ.ops.order import Pair
from panoptic_occ.structures.masks import MaskCrops, Window


def give_away(masks: MaskCrops, turns: Iterable[Pair], ranking: Sequence[int]) -> MaskCrops:
    """What is left of every mask after, pair by pair, the one below has given up the pixels that both still had;
    nothing of instances outside ``ranking``."""
    left = replace(masks, pixels=masks.pixels.clone())
    items = list(left)  # views
    for i in set(range(len(items))) - set(ranking):
        items[i][1].zero_()
    for above, below in turns:
        _, winner, loser = shared(items[above], items[below])
        loser &= ~winner
    return left


def inherit(claims: MaskCrops, masks: MaskCrops, duplicate_of: Sequence[int]) -> MaskCrops:
    """``claims`` inside the masks, where an instance also gets what its duplicates claim of its mask;
    ``duplicate_of``: the instance that each one repeats, -1 for none."""
    merged = replace(masks, pixels=torch.zeros_like(masks.pixels))
    targets, sources, full = list(merged), list(claims), list(masks)  # views
    for target, source in zip(targets, sources, strict=True):
        _, to, part = shared(target, source)
        to |= part
    for i, twin in enumerate(duplicate_of):
        if twin >= 0:
            _, part, inside = shared(sources[i], full[twin])
            _, _, to = shared(sources[i], targets[twin])
            to |= part & inside
    return merged


def atoms(masks: MaskCrops) -> tuple[Int[Tensor, "h w"], Bool[Tensor, "a n"]]:
    """The atom of every pixel, 0 outside all masks, and the claimants of each: an atom's pixels have the same ones."""
    atom_of = np.zeros(masks.size, dtype=np.int64)
    claimants, count = np.zeros((1, len(masks)), dtype=bool), 1
    for i, ((window, _), crop) in enumerate(zip(masks, masks.arrays(), strict=True)):  # each mask splits what it cuts
        view = atom_of[window]
        inside = view[crop]
        cut = np.flatnonzero(np.bincount(inside, minlength=count))
        if count + len(cut) > len(claimants):  # twice as many at a time, so that they are copied rarely
            claimants = np.concatenate([claimants, np.zeros((count + len(cut), len(masks)), dtype=bool)])
        part_of = np.zeros(count, dtype=np.int64)
        part_of[cut] = np.arange(count, count + len(cut))
        view[crop] = part_of[inside]
        claimants[count : count + len(cut)] = claimants[cut]
        claimants[count : count + len(cut), i] = True
        count += len(cut)
    device = masks.pixels.device
    return torch.from_numpy(atom_of).to(device), torch.from_numpy(claimants[:count]).to(device)


def owned_parts(owner: Int[Tensor, "h w"], masks: MaskCrops) -> MaskCrops:
    """The pixels of every mask that ``owner``, a map of instance numbers, gives to its instance."""
    parts = [(crop & (owner[window] == i)).flatten() for i, (window, crop) in enumerate(masks)]
    return replace(masks, pixels=torch.cat(parts)) if parts else masks


def shared(
    first: tuple[Window, Bool[Tensor, "a b"]], second: tuple[Window, Bool[Tensor, "c d"]]
) -> tuple[Window, Bool[Tensor, "y x"], Bool[Tensor, "y x"]]:
    """The rectangle in which two crops meet, and the part of each in it (views)."""
    ys, xs = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first[0], second[0], strict=True))
    one, other = (
        crop[ys.start - y.start : ys.stop - y.start, xs.start - x.start : xs.stop - x.start]
        for (y, x), crop in (first, second)
    )
    return (ys, xs), one, other
