"""What the fusion accepts: thresholds on scores and visible shares, smallest stuff, unknown erasing."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from panoptic_occ.common.kinds import Area, Share, Size
from panoptic_occ.config.values import check_values
from panoptic_occ.fusion.stuff import StuffRule

Shape = Literal["square", "disk"]
Stride = Literal[1, 4]


class Dilation(NamedTuple):
    """All cells within ``radius`` px of a component: in both directions (``square``) or as the crow flies (``disk``).

    ``stride``: pixels along the side of a cell; 1 for the pixels themselves, 4 for the stride of the semantic head.
    """

    radius: int
    shape: Shape = "square"
    stride: Stride = 1

    @property
    def name(self) -> str:
        """What stored confidences are kept under: ``16``, ``16_disk``, ``16_stride4``."""
        shape = "" if self.shape == "square" else f"_{self.shape}"
        return f"{self.radius}{shape}" + ("" if self.stride == 1 else f"_stride{self.stride}")

    @property
    def reach(self) -> int:
        """Cells by which a component grows in each direction, at most."""
        return self.radius // self.stride

    def grown(self, cells: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """``cells`` and those around them, cut at the edge."""
        from scipy import ndimage  # here: few fusions need it

        if self.shape == "disk":
            return ndimage.distance_transform_edt(~cells) * self.stride <= self.radius
        grown = ndimage.maximum_filter(cells.view(np.uint8), 2 * self.reach + 1, mode="constant")
        return grown.view(bool)


@dataclass(frozen=True)
class FusionPolicy:
    """Thresholds of the fusion, as shares of the area of the instance's mask; None switches a check off.

    ``conf_thr``: instances with a lower score take no part.
    ``max_occluded``: reject when a larger share cannot be taken (tau of Panoptic FPN).
    ``min_visible``: reject when this share or less can be taken (tau of OCFusion and RAP).
    ``same_class_thr``: reject when instances of the same class own this share or more (RAP, CA), with
    ``same_class_strict`` only when they own more.
    ``duplicate_thr``: reject when the intersection with an accepted instance is this share or more of both masks (RAP,
    EO).  Where the relation brings an order or claims of its own, scores decide instead: the better one stands in any
    order, and claims what its duplicates were given of its mask.
    ``duplicate_areas``: of the accepted instance counts its whole mask (``original``, the paper), or what it owns by
    then (``canvas``, RAP's code).
    ``canvas_sig_ratio``: the order of an instance and an owner counts if the common pixels that the owner has left are
    this share or more of the instance's mask or of all that the owner has left (RAP's code of OCFusion).
    ``post_min_visible``: remove an accepted instance that others left this share or less.
    ``stuff_area``: smaller stuff segments stay void; in pixels, or below 1 as a share of the image.
    ``stuff_rule``: what it measures, a whole ``class`` or each connected ``component`` of it (OANet).
    ``erase_thr``: stuff components of a lower mean probability stay void (REFINE, see ``fusion.erasing``).  The mean
    reaches ``erase_radius`` pixels around them, in a ``square`` or a ``disk`` (``erase_shape``), pixel by pixel or in
    cells of ``erase_stride`` 4.  ``erase_after``: components of what the things leave free.
    Raises ConfigError for values that the annotations exclude.

    >>> from panoptic_occ import FusionPolicy
    >>> ocfusion, refine = FusionPolicy(min_visible=0.5), FusionPolicy(min_visible=0.5, erase_thr=0.4)
    >>> sorted(ocfusion.requires), sorted(refine.requires)
    ([], ['semantic_logits'])
    """

    conf_thr: Share = 0.5
    max_occluded: Share | None = None
    min_visible: Share | None = None
    same_class_thr: Share | None = None
    duplicate_thr: Share | None = None
    stuff_area: Area = 4096
    same_class_strict: bool = False
    duplicate_areas: Literal["original", "canvas"] = "original"
    canvas_sig_ratio: Share | None = None
    post_min_visible: Share | None = None
    stuff_rule: StuffRule = "class"
    erase_thr: Share | None = None
    erase_radius: Size = 0
    erase_shape: Shape = "square"
    erase_stride: Stride = 1
    erase_after: bool = False

    def __post_init__(self) -> None:
        check_values("fusion", vars(self), _PARAMETERS)

    @property
    def dilation(self) -> Dilation:
        """How far around a component unknown erasing looks."""
        return Dilation(self.erase_radius, self.erase_shape, self.erase_stride)

    @property
    def requires(self) -> frozenset[str]:
        """What the base must compute for this policy beside the labels of the stuff: its logits, to erase by."""
        return frozenset() if self.erase_thr is None else frozenset({"semantic_logits"})


_PARAMETERS = inspect.signature(FusionPolicy, eval_str=True).parameters
