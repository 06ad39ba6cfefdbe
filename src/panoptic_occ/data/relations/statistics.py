"""What the ground-truth relations of a split look like: how many pairs there are, and how far size alone gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Column, Table

from panoptic_occ.data.relations.cache import RelationCache

OCFUSION_COCO_TRAIN_PAIRS: Mapping[float, int] = {0.05: 192_519, 0.10: 157_784, 0.20: 132_165}
"""Pairs of COCO train2017 over the significance ratio (rho), as published by OCFusion (Lazarow et al., CVPR 2020)."""


@dataclass(frozen=True)
class RelationStatistics:
    """Counts over the significant pairs of a split.

    ``decided``: pairs with an owner by majority, of which ``smaller_on_top`` belong to the smaller mask and
    ``larger_on_top`` to the larger (equal areas count for neither).  ``compared``: pairs that the delta rule decides
    too, and ``agreeing`` those where both rules say the same.
    """

    sig_ratio: float
    pairs: int
    images: int
    decided: int
    smaller_on_top: int
    larger_on_top: int
    compared: int
    agreeing: int


def relation_statistics(
    cache: RelationCache, sig_ratios: Sequence[float] = (0.05, 0.10, 0.20)
) -> tuple[RelationStatistics, ...]:
    """Statistics at every ratio of intersection to smaller mask, from which on a pair is significant."""
    image, instances, ratio = cache.all_pairs()
    first, second = instances.unbind(dim=1)
    area, lost = cache.area.long(), (cache.area - cache.pan_area).long()
    majority = (cache.own_pair[:, 0] - cache.own_pair[:, 1]).sign()
    delta = (lost[second] - lost[first]).sign()
    larger_on_top = majority * (area[first] - area[second]).sign()
    statistics = []
    for sig_ratio in sig_ratios:
        significant = ratio >= sig_ratio
        decided = significant & (majority != 0)
        compared = decided & (delta != 0)
        statistics.append(
            RelationStatistics(
                sig_ratio=sig_ratio,
                pairs=int(significant.sum()),
                images=len(image[significant].unique()),
                decided=int(decided.sum()),
                smaller_on_top=int((decided & (larger_on_top < 0)).sum()),
                larger_on_top=int((decided & (larger_on_top > 0)).sum()),
                compared=int(compared.sum()),
                agreeing=int((compared & (majority == delta)).sum()),
            )
        )
    return tuple(statistics)


def statistics_table(
    rows: Sequence[RelationStatistics], title: str, published: Mapping[float, int] | None = None
) -> Table:
    """A table for the terminal; ``published`` pair counts stand beside the counted ones, labelled as such."""
    columns = {
        "ratio": [f">= {row.sig_ratio:.2f}" for row in rows],
        "pairs": [f"{row.pairs:,}" for row in rows],
        "images": [f"{row.images:,}" for row in rows],
        "owner": [f"{row.decided:,}" for row in rows],
        "smaller on top": [_share(row.smaller_on_top, row.decided) for row in rows],
        "larger on top": [_share(row.larger_on_top, row.decided) for row in rows],
        "delta": [_share(row.agreeing, row.compared) for row in rows],
    }
    caption = (
        "ratio: intersection / smaller mask; owner: pairs whose common pixels belong mostly to one of the two; "
        "smaller, larger on top: share of these where that mask is the owner; delta: share of these where the rule by "
        "lost area agrees, if it decides"
    )
    if published:
        columns["published"] = [f"{published[r.sig_ratio]:,}" if r.sig_ratio in published else "-" for r in rows]
        caption += "; published: pairs of the whole COCO train2017, OCFusion"
    table = Table(*(Column(name, justify="right") for name in columns), title=title, caption=caption)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
