"""IBPP on a small Mask R-CNN and Panoptic FPN head with random features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from panoptic_occ.exchange.base import Exchange, Inputs, Pyramids
from panoptic_occ.exchange.ibpp import IterativeProjection, Refined
from panoptic_occ.structures.sample import Batch, Sample
from panoptic_occ.stuff.pfpn import PanopticFPNHead
from panoptic_occ.testing import toy_categories, toy_sample
from panoptic_occ.thing.base import Rois
from panoptic_occ.thing.mask_rcnn import MaskRCNN

CHANNELS, SIZE, CATEGORIES = 8, 64, toy_categories()
REQUIRES = frozenset({"soft", "roi_features", "semantic_logits"})


class Base:
    """Branches, a batch and random features; weights that make masks and scores differ visibly."""

    def __init__(self, counts: tuple[int, ...] = (3, 2), predictor_convs: int = 0, **options: Any) -> None:
        torch.manual_seed(0)
        shape: dict[str, Any] = {"in_channels": CHANNELS, "categories": CATEGORIES}
        small: dict[str, Any] = {"anchor_scale": 4, "rois_per_image": 16, "rpn_test": (40, 12), "score_thr": 0.02}
        self.thing = MaskRCNN(**shape, **small, mask_convs=2)
        self.stuff = PanopticFPNHead(**shape, things="dense", predictor_convs=predictor_convs)
        for layer in (self.thing.roi_heads.box_predictor.cls_score, self.thing.roi_heads.mask_predictor[-1]):
            torch.nn.init.normal_(layer.weight, std=0.3)
        self.exchange = IterativeProjection(**shape, stuff=self.stuff, mask_convs=2, **options)
        samples = tuple(_sample(count, seed) for seed, count in enumerate(counts))
        self.batch = Batch(torch.zeros(len(samples), 3, SIZE, SIZE), ((SIZE, SIZE),) * len(samples), samples)
        self.levels = {str(k): torch.randn(len(samples), CHANNELS, *[SIZE // 2 ** (k + 2)] * 2) for k in range(4)}
        self.levels["pool"] = torch.randn(len(samples), CHANNELS, 1, 1)
        self.features = Pyramids.of(self.levels)

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.thing, self.stuff, self.features, self.batch)

    def losses(self, exchange: Exchange | None = None) -> dict[str, Tensor]:
        for module in (self.thing, self.stuff, self.exchange):
            module.train()
        torch.manual_seed(1)
        losses = (exchange or self.exchange).losses(self.inputs)
        return losses.thing | losses.stuff

    def outputs(self, exchange: Exchange | None = None, conf_thr: float = 0.0) -> tuple[Any, Any]:
        self.thing.eval()
        return (exchange or self.exchange).outputs(self.inputs, conf_thr, REQUIRES)

    def positives(self, exchange: Exchange | None = None) -> Any:
        self.thing.eval()
        torch.manual_seed(1)
        return (exchange or self.exchange).positives(self.inputs, REQUIRES)

    def moving(self, std: float = 0.05) -> Base:
        """Lets a cascade move boxes visibly."""
        lasts = [head[1] for head in self.exchange.cascade.heads] or [self.thing.roi_heads.box_predictor.bbox_pred]
        for last in lasts:
            torch.nn.init.normal_(last.weight, std=std)
        for head in self.exchange.mask_heads:
            torch.nn.init.normal_(head.mask_predictor[-1].weight, std=0.3)
        self.thing.eval()
        return self

    def detected(self) -> list[Rois]:
        return self.thing.eval().find(self.features.thing, self.batch, 0.0)

    def refine(self, rois: list[Rois], shown: list[Rois] | None = None) -> Refined:
        with torch.no_grad():
            return self.exchange.refine(self.inputs, rois, rois if shown is None else shown)

    def parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        parts = {"thing": self.thing, "stuff": self.stuff, "exchange": self.exchange}
        return [(f"{part}.{name}", p) for part, module in parts.items() for name, p in module.named_parameters()]

    def none(self) -> Exchange:
        return Exchange(in_channels=CHANNELS, categories=CATEGORIES, stuff=self.stuff)


def _sample(count: int, seed: int) -> Sample:
    if count:
        return toy_sample(count, seed, size=(SIZE, SIZE))
    full = toy_sample(1, seed, size=(SIZE, SIZE))
    assert full.target is not None
    nothing = torch.zeros(0, dtype=torch.int64)
    target = full.target
    empty = type(target)(
        target.boxes[nothing], target.labels[nothing], target.masks[nothing], target.panoptic,
        target.relation[nothing], target.instance_ids[nothing],
    )  # fmt: skip
    return Sample(full.image, seed, full.file_name, full.original_size, empty)
