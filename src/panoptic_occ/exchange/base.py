"""How the thing and the stuff branch work together: in Panoptic FPN not at all, both read the same pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from panoptic_occ.backbone.sharing import STUFF
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.sample import Batch, Features, Requires
from panoptic_occ.structures.semantic_map import SemanticMap
from panoptic_occ.structures.target import Target
from panoptic_occ.stuff.base import StuffBranch
from panoptic_occ.thing.base import Positives, Rois, ThingBranch, Trainable

Outputs = tuple[list[InstanceSet], list[SemanticMap]]
"""Detections and semantic map of every image."""
Branch = TypeVar("Branch", bound=nn.Module)


class Pyramids(NamedTuple):
    """Feature pyramids (P2..P5 under the keys 0..3, P6 under pool) as each branch reads them, often the same."""

    thing: Features
    stuff: Features

    @staticmethod
    def of(features: Features) -> Pyramids:
        """From the features of a backbone: the stuff branch reads the maps named ``stuff/...``, else the same ones."""
        stuff = {name.removeprefix(STUFF): level for name, level in features.items() if name.startswith(STUFF)}
        thing = {name: level for name, level in features.items() if not name.startswith(STUFF)}
        return Pyramids(thing, stuff or thing)


class Inputs(NamedTuple):
    """Both branches, the pyramids that they read, and the batch."""

    thing: ThingBranch
    stuff: StuffBranch
    features: Pyramids
    batch: Batch


class BranchLosses(NamedTuple):
    """Named losses of both branches; each is weighted by its name, else by its branch (``schedule.loss_weights``)."""

    thing: dict[str, Tensor]
    stuff: dict[str, Tensor]


class Exchange(nn.Module):
    """No exchange (Panoptic FPN, Kirillov et al. 2019), and the contract of those that have one.

    An exchange runs both branches, so that it can pass features or predictions from one to the other; its own layers
    are part of the base.
    ``stuff``: the stuff branch, to read widths from; it is not kept.
    ``shown_thr``: the score from which the stuff branch sees a detection, whatever the fusion's threshold (1: none).
    """

    shown_thr: float = 1.0

    def __init__(self, *, in_channels: int, categories: Any, stuff: StuffBranch) -> None:
        super().__init__()

    def losses(self, inputs: Inputs) -> BranchLosses:
        """Losses of stage 1."""
        thing, stuff, features, batch = inputs
        return BranchLosses(thing.losses(features.thing, batch), stuff.losses(features.stuff, batch))

    def outputs(self, inputs: Inputs, conf_thr: float, requires: Requires) -> Outputs:
        """Ranked detections and semantic map of every image, in its original frame."""
        thing, stuff, features, batch = inputs
        detections = thing.detect(features.thing, batch, conf_thr, requires)
        return detections, stuff.semantic_maps(features.stuff, batch, requires)

    def positives(self, inputs: Inputs, requires: Requires, trainable: Trainable = None) -> Positives:
        """Positive proposals with their annotations, which train the occlusion module in stage 2."""
        return inputs.thing.positives(inputs.features.thing, inputs.batch, requires, trainable)


def needed(branch: nn.Module, kind: type[Branch], exchange: str, part: str, fix: str) -> Branch:
    """``branch`` as the ``kind`` whose ``part`` the exchange reads; ConfigError for any other."""
    if isinstance(branch, kind):
        return branch
    name = type(branch).__name__
    raise ConfigError(f"exchange={exchange} needs {part}, and {name} has none; choose {fix}, or exchange=none")


def annotated_rois(targets: Sequence[Target], keep: tuple[float, float]) -> list[Rois]:
    """What an exchange reads in training: of every image a random share of the annotated instances, because a detector
    misses some (BANet, section 3.4), with score 1; from torch's global generator."""
    rois = []
    for target in targets:
        count = len(target.labels)
        matches = torch.randperm(count)[: sampled_count(count, keep)].to(target.labels.device)
        boxes = target.boxes[matches].float()
        rois.append(Rois(boxes, target.labels[matches], torch.ones_like(boxes[:, 0]), matches))
    return rois


def checked_range(keep: tuple[float, float]) -> tuple[float, float]:
    """``keep``, or a ConfigError when it is no rising range of shares."""
    if not 0 <= keep[0] <= keep[1] <= 1:
        raise ConfigError(f"exchange.keep={list(keep)} must be a rising range within 0..1, as [0.6, 1.0]")
    return float(keep[0]), float(keep[1])


def sampled_count(count: int, keep: tuple[float, float]) -> int:
    """How many of ``count`` annotated instances are read: a share uniform in ``keep``, at least one of them."""
    rate = float(torch.empty(()).uniform_(*keep))
    return min(count, max(1, round(rate * count)))
