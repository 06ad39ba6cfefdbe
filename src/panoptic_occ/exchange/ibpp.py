"""IBPP: masks and semantics refine each other (REFINE, Ren et al., AAAI 2021, "REFINE: Prediction Fusion Network for
Panoptic Segmentation", iterative bi-directional prediction projection, Eqs. 2-6 and Figure 3).

Shapes: N regions, C channels of the pyramid, K classes (things and stuff), S channels of the stuff branch's trunk.
    P_0   = H_sem(F_sem)                                            (K, H/4, W/4)   the stuff branch as it is
    f_sem = align(RoIAlign(F_sem)),  p_sem = RoIAlign(P_{t-1})      (C | K, 14, 14)
    m_t   = H_ins_t([f_ins + f_sem ; p_sem])                        (28, 28)        Eq. 4
    P_t   = H_sem_t([RoI-Flatten(m_t) ; F_sem])                     (K, H/4, W/4)   Eqs. 5, 6
for t = 1..T.  The masks are m_T, the stuff is P_T.

F_sem is the trunk of the stuff branch and P_0 its own prediction; ``align`` is a 1x1 convolution where S differs from C
(``stuff.hidden=256`` gives the paper's 256 channels, and no ``align``).  The first H_ins is the mask head of the thing
branch: a convolution of joined channels is a sum of two, so its first convolution goes on reading f, and one of this
module (``priors``) adds what p_sem says.  All iterations align to the detected boxes or, with ``boxes=cascade``, each
after the first to boxes regressed once more (``box_cascade``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Size
from panoptic_occ.config.values import checked
from panoptic_occ.exchange.banet import projection
from panoptic_occ.exchange.base import BranchLosses, Exchange, Inputs, Outputs, annotated_rois, checked_range, needed
from panoptic_occ.exchange.box_cascade import BoxCascade
from panoptic_occ.exchange.roi_flatten import STRIDE, roi_flatten
from panoptic_occ.ops.initialise import relu_convolutions
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.sample import Requires
from panoptic_occ.stuff.base import StuffBranch, StuffHead, semantic_target
from panoptic_occ.stuff.pfpn import DeepPredictor
from panoptic_occ.thing.base import Positives, Rois, ThingBranch, Trainable
from panoptic_occ.thing.mask_head import MaskNorm, mask_head, mask_loss
from panoptic_occ.thing.mask_rcnn import MaskRCNN
from panoptic_occ.thing.pooling import indexed

Weights = Literal["separate", "shared"]
Projected = Literal["probs", "logits"]
TrainBoxes = Literal["annotated", "proposals"]
Boxes = Literal["fixed", "cascade"]


class Refined(NamedTuple):
    """What T iterations give.

    ``rois``: regions of every image at each iteration 1..T; ``masks``: their logits m_1..m_T; ``semantics``: P_0..P_T
    at stride 4; ``pooled``: f_ins of the last regions; ``offsets``: how iterations 2..T moved the boxes.
    """

    rois: list[list[Rois]]
    masks: list[Float[Tensor, "n k 28 28"]]
    semantics: list[Float[Tensor, "b k h4 w4"]]
    pooled: Float[Tensor, "n c 14 14"]
    offsets: list[Float[Tensor, "n 4"]]


class IterativeProjection(Exchange):
    """Masks and semantics that read each other's predictions ``iterations`` times (T; 0 is no exchange at all).

    ``weights``: heads of their own for every iteration (``separate``) or the same in all (``shared``).
    ``projected``: what the masks read of P, ``probs`` or ``logits``.  ``detach``: no gradient through P and masks.
    ``class_agnostic_masks``: one mask per region, in the background channel that no class uses, instead of one a class.
    ``train_boxes``: regions on the canvas in training, ``annotated`` (a share uniform in ``keep`` of them, because
    detections miss some) or the positive ``proposals``.  At test it shows all detections, weighted by their scores.
    ``boxes``: ``fixed`` in all iterations, or a ``cascade`` that regresses them again before each but the first.
    ``mask_convs``, ``mask_norm``: 3x3 convolutions of H_ins and what follows them, as in the thing branch.
    ``hidden``: width of H_sem, half of ``in_channels`` by default.
    Raises ConfigError for unknown values and for a stuff branch without every thing class.
    """

    @checked("exchange")
    def __init__(
        self,
        *,
        in_channels: int,
        categories: Categories,
        stuff: StuffBranch,
        iterations: Size = 3,
        weights: Weights = "separate",
        projected: Projected = "probs",
        detach: bool = False,
        class_agnostic_masks: bool = False,
        train_boxes: TrainBoxes = "annotated",
        boxes: Boxes = "fixed",
        keep: tuple[float, float] = (0.6, 1.0),
        mask_convs: int = 4,
        mask_norm: MaskNorm = None,
        hidden: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, categories=categories, stuff=stuff)
        self.iterations, self.projected, self.detach = iterations, projected, detach
        self.class_agnostic_masks = class_agnostic_masks
        self.train_boxes, self.keep = train_boxes, checked_range(keep)
        self.num_things = categories.num_things
        if iterations == 0:
            return
        self.shown_thr = 0.0
        head = dense_head(stuff)
        hidden = max(in_channels // 2, 32) if hidden is None else hidden
        heads = 1 if weights == "shared" else iterations
        semantic = [DeepPredictor(head.width + self.num_things, hidden, head.num_classes) for _ in range(heads)]
        self.align = nn.Identity() if head.width == in_channels else projection(head.width, in_channels)
        self.priors = nn.ModuleList(
            nn.Conv2d(head.num_classes, in_channels, 3, padding=1, bias=False) for _ in range(heads)
        )
        self.mask_heads = nn.ModuleList(
            MaskHead(in_channels, mask_convs, mask_norm, self.num_things + 1) for _ in range(heads - 1)
        )
        self.semantic_heads = nn.ModuleList(semantic)
        relu_convolutions(self.priors)
        relu_convolutions(self.semantic_heads)
        self.cascade = BoxCascade(in_channels, self.num_things + 1, heads - 1) if boxes == "cascade" else None

    def losses(self, inputs: Inputs) -> BranchLosses:
        """``mask_1..T``, each with weight 1, and ``stuff_0..T``, whose weights add up to that of one semantic loss; a
        cascade adds ``box_2..T``."""
        if self.iterations == 0:
            return super().losses(inputs)
        detector, head, targets = box_branch(inputs.thing), dense_head(inputs.stuff), inputs.batch.targets
        losses, positive = detector.box_losses(inputs.features.thing, inputs.batch)
        canvas_rois = positive if self.train_boxes == "proposals" else annotated_rois(targets, self.keep)
        refined = self.refine(inputs, positive, canvas_rois)
        for t, (rois, logits) in enumerate(zip(refined.rois, refined.masks, strict=True), start=1):
            losses[f"mask_{t}"] = mask_loss(logits, rois, targets)
        for t, (before, offsets) in enumerate(zip(refined.rois, refined.offsets, strict=False), start=2):
            losses[f"box_{t}"] = BoxCascade.loss(detector, before, offsets, targets)
        truth, share = semantic_target(inputs.batch), 1 / len(refined.semantics)
        stuff = {f"stuff_{t}": share * head.loss(p, truth) for t, p in enumerate(refined.semantics)}
        return BranchLosses(losses, stuff)

    @torch.no_grad()
    def outputs(self, inputs: Inputs, conf_thr: float, requires: Requires) -> Outputs:
        """Detections with the masks m_T, and the stuff of P_T; every detection is on the canvas, whatever conf_thr."""
        if self.iterations == 0:
            return super().outputs(inputs, conf_thr, requires)
        detector, batch = box_branch(inputs.thing), inputs.batch
        detections = detector.find(inputs.features.thing, batch, conf_thr=0.0)
        refined = self.refine(inputs, detections, detections)
        confident = [r.scores >= conf_thr for r in detections]
        rois = [r[keep] for r, keep in zip(refined.rois[-1], confident, strict=True)]
        index = torch.cat(confident)
        soft = detector.soft_masks(refined.masks[-1][index], rois)
        instances = detector.placed(rois, soft, refined.pooled[index], batch, requires)
        return instances, dense_head(inputs.stuff).decode(refined.semantics[-1], batch, requires)

    @torch.no_grad()
    def positives(self, inputs: Inputs, requires: Requires, trainable: Trainable = None) -> Positives:
        """Positive proposals with the masks m_T; the canvas shows the detections, as it will at test time."""
        if self.iterations == 0:
            return super().positives(inputs, requires, trainable)
        detector, pyramid, batch = box_branch(inputs.thing), inputs.features.thing, inputs.batch
        positive = detector.positive_rois(pyramid, batch, trainable)
        refined = self.refine(inputs, positive, detector.find(pyramid, batch, conf_thr=0.0))
        rois = refined.rois[-1]
        return detector.matched(rois, detector.soft_masks(refined.masks[-1], rois), refined.pooled, batch, requires)

    def refine(self, inputs: Inputs, rois: Sequence[Rois], canvas_rois: Sequence[Rois]) -> Refined:
        """T iterations.  ``rois`` (one entry an image) get masks; ``canvas_rois`` are the regions on the canvas."""
        thing, stuff, pyramid = box_branch(inputs.thing), dense_head(inputs.stuff), inputs.features.thing
        regions = Regions.of(rois, canvas_rois)
        trunk = stuff.trunk(inputs.features.stuff)
        logits = stuff.predictor(trunk)
        scores = torch.cat([s.scores for s in canvas_rois])
        moves = self.cascade if thing.oracle is None or not thing.oracle.fixes_boxes else None
        refined = Refined([], [], [logits], torch.empty(0), [])
        for t in range(self.iterations):
            if t > 0 and moves is not None:
                offsets = moves.offsets(thing, pyramid, t, regions.joined)
                refined.offsets.append(offsets[regions.masked])
                regions = regions.at(moves.moved(thing, regions.joined, offsets, inputs.batch.sizes))
            if t == 0 or moves is not None:
                f_ins = thing.pool(pyramid, regions.joined)
                enhanced = f_ins + self.align(self._read(thing, trunk, regions.joined))
            p_sem = self._read(thing, self._projection(logits), regions.joined)
            masks = self._masks(thing, t, enhanced, p_sem)
            soft = thing.soft_masks(masks[regions.on_canvas], regions.canvas_rois)
            canvas = roi_flatten(soft, regions.canvas_rois, self.num_things, (trunk.shape[-2], trunk.shape[-1]), scores)
            logits = self._of(self.semantic_heads, t)(torch.cat([canvas.detach() if self.detach else canvas, trunk], 1))
            refined.rois.append(regions.rois)
            refined.masks.append(masks[regions.masked])
            refined.semantics.append(logits)
        return refined._replace(pooled=f_ins[regions.masked])

    def _masks(
        self, thing: MaskRCNN, t: int, f: Float[Tensor, "n c 14 14"], p: Float[Tensor, "n k 14 14"]
    ) -> Float[Tensor, "n k 28 28"]:
        """H_ins of iteration ``t`` (from 0), Eq. 4; channel c + 1 is the contiguous label c."""
        heads: Any = self.mask_heads[t - 1] if t > 0 and len(self.mask_heads) > 0 else thing.roi_heads
        (conv, *after), *rest = heads.mask_head
        y = conv(f) + self._of(self.priors, t)(p)
        for layer in (*after, *rest):
            y = layer(y)
        logits: Tensor = heads.mask_predictor(y)
        return logits[:, :1].expand_as(logits) if self.class_agnostic_masks else logits

    def _projection(self, logits: Float[Tensor, "b k h4 w4"]) -> Float[Tensor, "b k h4 w4"]:
        """What the masks read of a semantic prediction."""
        logits = logits.detach() if self.detach else logits
        return logits.float().softmax(dim=1) if self.projected == "probs" else logits

    @staticmethod
    def _of(heads: nn.ModuleList, t: int) -> nn.Module:
        """The head of iteration ``t``, or the one that all iterations share."""
        return heads[min(t, len(heads) - 1)]

    @staticmethod
    def _read(thing: MaskRCNN, feature: Float[Tensor, "b s h4 w4"], rois: Sequence[Rois]) -> Float[Tensor, "n s 14 14"]:
        """RoIAlign of a map at stride 4, with the settings of the thing branch."""
        return thing.roi_heads.mask_roi_pool.crops(feature, indexed([r.boxes for r in rois]), STRIDE)


class Regions(NamedTuple):
    """Regions that get masks and regions that the canvas shows, as one sequence per image.

    ``masked``, ``on_canvas``: which of the joined regions of all images are which.
    """

    joined: list[Rois]
    masked: Bool[Tensor, " n"]
    on_canvas: Bool[Tensor, " n"]
    rois: list[Rois]
    canvas_rois: list[Rois]

    @staticmethod
    def of(rois: Sequence[Rois], canvas_rois: Sequence[Rois]) -> Regions:
        """Both, one after the other, or the same ones once; joined regions have no annotations."""
        if canvas_rois is rois:
            every = torch.ones(sum(map(len, rois)), dtype=torch.bool)
            return Regions(list(rois), every, every, list(rois), list(rois))
        joined = [
            Rois(torch.cat([r.boxes, s.boxes]), torch.cat([r.labels, s.labels]), torch.cat([r.scores, s.scores]))
            for r, s in zip(rois, canvas_rois, strict=True)
        ]
        masked = torch.cat([torch.arange(len(j)) < len(r) for j, r in zip(joined, rois, strict=True)])
        return Regions(joined, masked, ~masked, list(rois), list(canvas_rois))

    def at(self, moved: Sequence[Rois]) -> Regions:
        """The same regions in the boxes of ``moved``, those of ``joined`` after a move."""
        if self.on_canvas is self.masked:
            return self._replace(joined=list(moved), rois=list(moved), canvas_rois=list(moved))
        pairs = list(zip(self.rois, moved, strict=True))
        rois = [replace(r, boxes=m.boxes[: len(r)]) for r, m in pairs]
        canvas_rois = [replace(s, boxes=m.boxes[len(r) :]) for s, (r, m) in zip(self.canvas_rois, pairs, strict=True)]
        return self._replace(joined=list(moved), rois=rois, canvas_rois=canvas_rois)


class MaskHead(nn.Module):
    """H_ins of an iteration after the first; its parts are named like those of torchvision's RoIHeads."""

    def __init__(self, in_channels: int, convs: int, norm: MaskNorm, classes: int) -> None:
        super().__init__()
        self.mask_head = mask_head(in_channels, convs, norm)
        self.mask_predictor = MaskRCNNPredictor(in_channels, in_channels, classes)
        nn.init.normal_(self.mask_predictor[-1].weight, std=0.001)
        nn.init.zeros_(self.mask_predictor[-1].bias)


def dense_head(stuff: StuffBranch) -> StuffHead:
    """``stuff`` as a network that scores every thing class and every stuff class; ConfigError for any other."""
    head = needed(stuff, StuffHead, "ibpp", "a semantic network", "stuff=pfpn_dense")
    if head.first_label != 0:
        raise ConfigError(
            "exchange=ibpp projects the probability of every thing class, and this stuff branch does not have them; "
            "use stuff=pfpn_dense (stuff.things=dense)"
        )
    return head


def box_branch(thing: ThingBranch) -> MaskRCNN:
    """``thing`` as a network that detects boxes and reads features in them; ConfigError for any other."""
    return needed(thing, MaskRCNN, "ibpp", "masks in boxes", "thing=mask_rcnn")
