"""How the thing and the stuff branch work together: in Panoptic FPN not at all, both read the same pyramid."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from panoptic_occ.structures.instances import InstanceSet, SemanticMap
from panoptic_occ.structures.sample import Batch
from panoptic_occ.stuff.base import StuffBranch
from panoptic_occ.thing.base import ThingBranch, Wanted

STUFF = "stuff/"


class Pyramids(NamedTuple):
    """Feature pyramids (P2..P5 under the keys 0..3, P6 under pool) as each branch reads them, often the same."""

    thing: dict[str, Tensor]
    stuff: dict[str, Tensor]

    @staticmethod
    def of(features: dict[str, Tensor]) -> Pyramids:
        """What a backbone gives: maps named ``stuff/...`` are the stuff branch's own, else both read the same."""
        own = {name.removeprefix(STUFF): level for name, level in features.items() if name.startswith(STUFF)}
        shared = {name: level for name, level in features.items() if not name.startswith(STUFF)}
        return Pyramids(shared, own or shared)


class BranchLosses(NamedTuple):
    """Named losses of both branches; each is weighted by its name, else by its branch (``schedule.loss_weights``)."""

    thing: dict[str, Tensor]
    stuff: dict[str, Tensor]


class Exchange(nn.Module):
    """No exchange (Panoptic FPN, Kirillov et al. 2019), and the contract of those that have one.

    An exchange runs both branches, so that it can pass features or predictions from one to the other; its own layers
    are part of the base.  ``stuff``: the stuff branch, to read widths from; it is not kept.  ``shown_thr``: the score
    from which the stuff branch sees a detection, whatever is asked for (1: it sees none).
    """

    shown_thr: float = 1.0

    def __init__(self, *, in_channels: int, categories: Any, stuff: StuffBranch) -> None:
        super().__init__()

    def losses(self, thing: ThingBranch, stuff: StuffBranch, features: Pyramids, batch: Batch) -> BranchLosses:
        """Losses of stage 1."""
        return BranchLosses(thing.losses(features.thing, batch), stuff.losses(features.stuff, batch))

    def outputs(
        self,
        thing: ThingBranch,
        stuff: StuffBranch,
        features: Pyramids,
        batch: Batch,
        conf_thr: float,
        requires: frozenset[str],
    ) -> tuple[list[InstanceSet], list[SemanticMap]]:
        """Ranked detections and semantic map of every image, in its original frame."""
        return (
            thing.detect(features.thing, batch, conf_thr, requires),
            stuff.semantic_maps(features.stuff, batch, requires),
        )

    def positives(
        self,
        thing: ThingBranch,
        stuff: StuffBranch,
        features: Pyramids,
        batch: Batch,
        requires: frozenset[str],
        wanted: Wanted = None,
    ) -> list[tuple[InstanceSet, Tensor]]:
        """Positive proposals with their annotations, which train the occlusion module in stage 2."""
        return thing.positives(features.thing, batch, requires, wanted)
