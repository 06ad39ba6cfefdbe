"""What the fusion reads beside the detections, and whether the sizes of all of it agree."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Int
from torch import Tensor

from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation

StuffSource = Int[Tensor, "h w"] | Callable[[Int[Tensor, "h w"]], Int[Tensor, "h w"]]
"""Stuff labels, or a function that gives them when it sees the map of the things."""


def check_sizes(instances: InstanceSet, stats: PairStats, relation: Relation, semantic: StuffSource | None) -> None:
    """ValueError when the inputs contradict each other."""
    n = len(instances)
    for name, tensor in (("stats.inter", stats.inter), ("margin", relation.margin), ("valid", relation.valid)):
        if tensor.shape != (n, n):
            raise ValueError(f"fuse: {name} has shape {tuple(tensor.shape)}, {n} instances need ({n}, {n})")
    if relation.order is not None and sorted(relation.order.tolist()) != list(range(n)):
        raise ValueError(f"fuse: relation.order must name each of the {n} instances once: {relation.order.tolist()}")
    claims, masks = relation.claims, instances.masks
    if claims is not None and (len(claims), tuple(claims.size)) != (n, tuple(masks.size)):
        raise ValueError(
            f"fuse: relation.claims has {len(claims)} masks of an image of {claims.size}, needs {n} of {masks.size}"
        )
    if relation.duplicate_of is not None and relation.duplicate_of.shape != (n,):
        raise ValueError(f"fuse: relation.duplicate_of has shape {tuple(relation.duplicate_of.shape)}, needs ({n},)")
    if isinstance(semantic, Tensor) and tuple(semantic.shape) != tuple(instances.masks.size):
        raise ValueError(
            f"fuse: the semantic map is {tuple(semantic.shape)} px, the masks are of an image of {instances.masks.size}"
        )
