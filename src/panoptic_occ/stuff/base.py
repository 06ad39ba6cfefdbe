"""The contract of a stuff branch, and what all branches with a network share: the loss and the label map."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_occ.config.values import checked
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.sample import Batch, Features, Requires
from panoptic_occ.structures.semantic_map import VOID_LABEL, SemanticMap
from panoptic_occ.stuff.label_map import full_logits, most_likely, upsample

Things = Literal["collapsed", "dense", "none"]
LossNorm = Literal["valid", "all"]


class StuffBranch(nn.Module):
    """Base class of stuff branches."""

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Named losses of the branch for a training batch; none of a branch without parameters.  NotImplementedError of
        one that has some: they would never be trained."""
        if next(self.parameters(), None) is None:
            return {}
        raise NotImplementedError(f"{type(self).__name__} has parameters to train and no losses(features, batch)")

    def semantic_maps(self, features: Features, batch: Batch, requires: Requires = frozenset()) -> list[SemanticMap]:
        """The stuff of every image, in its original frame; with logits if ``requires`` names ``semantic_logits``."""
        raise NotImplementedError


class StuffHead(StuffBranch):
    """A network that scores every class at stride 4; subclasses write ``trunk``.

    ``things``: ``collapsed`` (one class for all things, then the stuff classes), ``dense`` (every thing class too) or
    ``none`` (stuff only; pixels of things train nothing).
    ``loss_norm``: mean over the ``valid`` pixels of a process's batch (detectron2, RAP), or over ``all`` pixels, void
    included (OCFusion's code).
    ``align_corners``: of the step from stride 4 to pixels.  ``width``: channels of what ``trunk`` gives.
    """

    @checked("stuff")
    def __init__(
        self,
        categories: Categories,
        width: int,
        things: Things = "collapsed",
        loss_norm: LossNorm = "valid",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.loss_norm, self.align_corners, self.width = loss_norm, align_corners, width
        self.num_things = categories.num_things
        # channel c is the contiguous label c + first_label; of things there, the collapsed class stands for all
        self.first_label = {"collapsed": self.num_things - 1, "dense": 0, "none": self.num_things}[things]
        self.num_classes = len(categories) - self.first_label
        self.predictor: nn.Module = nn.Conv2d(width, self.num_classes, 1)

    def trunk(self, features: Features) -> Float[Tensor, "b w h4 w4"]:
        """Features at stride 4 that the classes are read from."""
        raise NotImplementedError

    def forward(self, features: Features) -> Float[Tensor, "b c h4 w4"]:
        """Logits at stride 4."""
        return self.predictor(self.trunk(features))

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """``stuff``: cross-entropy at full resolution; the padding of the batch is void."""
        return {"stuff": self.loss(self(features), semantic_target(batch))}

    def loss(self, logits: Float[Tensor, "b c h4 w4"], semantic: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Cross-entropy at full resolution; ``semantic`` holds contiguous labels, ``VOID_LABEL`` is ignored."""
        truth = semantic - self.first_label
        if self.first_label < self.num_things:  # all things are one class, or class 0 on
            truth = truth.clamp(min=0)
        truth = truth.masked_fill((semantic == VOID_LABEL) | (truth < 0), VOID_LABEL)
        full = upsample(logits, self.align_corners)
        total = F.cross_entropy(full, truth, ignore_index=VOID_LABEL, reduction="sum")
        count = truth.numel() if self.loss_norm == "all" else int((truth != VOID_LABEL).sum())
        return total / max(1, count)

    @torch.no_grad()
    def semantic_maps(self, features: Features, batch: Batch, requires: Requires = frozenset()) -> list[SemanticMap]:
        """The most likely class of every pixel where that is stuff."""
        return self.decode(self(features), batch, requires)

    @torch.no_grad()
    def decode(
        self, logits: Float[Tensor, "b c h4 w4"], batch: Batch, requires: Requires = frozenset()
    ) -> list[SemanticMap]:
        """Maps at the original sizes from logits at stride 4; the padding is cut off before anything is resized."""
        maps = []
        for coarse, sample, inside in zip(logits, batch.samples, batch.sizes, strict=True):
            if "semantic_logits" in requires:
                full = full_logits(coarse, inside, sample.original_size, self.align_corners)
                maps.append(semantic_map(full, self.first_label, self.num_things))
            else:
                channels = most_likely(coarse, inside, sample.original_size, self.align_corners)
                labels = stuff_labels(channels, self.first_label, self.num_things)
                maps.append(SemanticMap(labels, first_label=self.first_label))
        return maps


def semantic_map(logits: Float[Tensor, "c h w"], first_label: int, num_things: int) -> SemanticMap:
    """The most likely class of every pixel where that is stuff, with the logits."""
    return SemanticMap(stuff_labels(logits.argmax(dim=0), first_label, num_things), logits, first_label)


def stuff_labels(channels: Int[Tensor, "h w"], first_label: int, num_things: int) -> Int[Tensor, "h w"]:
    """Contiguous labels (int16, a quarter of the bytes) of winning channels, ``VOID_LABEL`` where a thing wins."""
    labels = channels.to(torch.int16) + first_label
    return labels.masked_fill(labels < num_things, VOID_LABEL)


def semantic_target(batch: Batch) -> Int[Tensor, "b h w"]:
    """Contiguous labels of a padded batch; the padding is void."""
    height, width = batch.images.shape[-2:]
    labels = [target.semantic() for target in batch.targets]
    return torch.stack([F.pad(t, (0, width - t.shape[1], 0, height - t.shape[0]), value=VOID_LABEL) for t in labels])
