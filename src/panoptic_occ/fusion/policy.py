"""What the fusion accepts: thresholds on scores and visible shares, smallest stuff, unknown erasing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_origin, get_type_hints

from panoptic_occ.common.errors import ConfigError, check_choice
from panoptic_occ.fusion.dilation import Dilation, Shape, Stride
from panoptic_occ.fusion.stuff import StuffRule


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
    ``stuff_area``: smaller stuff segments, in pixels, stay void.
    ``stuff_rule``: what it measures, a whole ``class`` or each connected ``component`` of it (OANet).
    ``erase_thr``: stuff components of a lower mean probability stay void (REFINE, see ``fusion.erasing``).  The mean
    reaches ``erase_radius`` pixels around them, in a ``square`` or a ``disk`` (``erase_shape``), pixel by pixel or in
    cells of ``erase_stride`` 4.  ``erase_after``: components of what the things leave free.
    Raises ConfigError for values outside [0, 1], unknown words, and a negative or fractional number of pixels.

    >>> from panoptic_occ import FusionPolicy
    >>> ocfusion, refine = FusionPolicy(min_visible=0.5), FusionPolicy(min_visible=0.5, erase_thr=0.4)
    >>> sorted(ocfusion.requires), sorted(refine.requires)
    ([], ['semantic_logits'])
    """

    conf_thr: float = 0.5
    max_occluded: float | None = None
    min_visible: float | None = None
    same_class_thr: float | None = None
    duplicate_thr: float | None = None
    stuff_area: int = 4096
    same_class_strict: bool = False
    duplicate_areas: Literal["original", "canvas"] = "original"
    canvas_sig_ratio: float | None = None
    post_min_visible: float | None = None
    stuff_rule: StuffRule = "class"
    erase_thr: float | None = None
    erase_radius: int = 0
    erase_shape: Shape = "square"
    erase_stride: Stride = 1
    erase_after: bool = False

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            key, value = f"fusion.{name}", getattr(self, name)
            if get_origin(kind) is Literal:
                check_choice(key, value, kind)
            elif kind is bool and not isinstance(value, bool):
                raise ConfigError(f"{key}={value!r}: must be true or false")
            elif kind is int and (not isinstance(value, int) or value < 0):
                raise ConfigError(f"{key}={value!r}: must be a whole number of pixels, 0 or more")
            elif kind in (float, float | None):
                off = "" if kind is float else ", or null to switch the check off"
                if not ((value is None and off) or (isinstance(value, int | float) and 0 <= value <= 1)):
                    raise ConfigError(f"{key}={value!r}: must be a share between 0 and 1{off}")

    @property
    def dilation(self) -> Dilation:
        """How far around a component unknown erasing looks."""
        return Dilation(self.erase_radius, self.erase_shape, self.erase_stride)

    @property
    def requires(self) -> frozenset[str]:
        """What the base must compute for this policy beside the labels of the stuff: its logits, to erase by."""
        return frozenset() if self.erase_thr is None else frozenset({"semantic_logits"})


_KINDS = get_type_hints(FusionPolicy)
