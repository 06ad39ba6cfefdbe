"""The data that crosses package borders: frozen dataclasses of tensors, one image each.

All in one file, however long: this is the language that every package speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.masks import MaskCrops, PairStats

VOID_LABEL = -1
"""Contiguous label of pixels that belong to no category (and of thing pixels in a stuff-only semantic map)."""

InstanceStatus = Literal["kept", "low_score", "empty", "same_class", "duplicate", "occluded", "erased"]


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map; ``label`` is the contiguous category, ``instance`` indexes the InstanceSet."""

    id: int
    label: int
    isthing: bool
    area: int
    iscrowd: bool = False
    score: float | None = None
    instance: int | None = None


@dataclass(frozen=True)
class InstanceRecord:
    """What the fusion did with one instance: why it was kept or dropped, and the pixels it won and lost.

    ``area`` of the mask; ``free``: its pixels that nobody owned; ``reclaimed`` from instances it lies above;
    ``final`` in the finished map.  ``blocker``: the instance that made it fail a check or took most of its pixels.
    ``met``: the instances that owned pixels of its mask when it was offered, by rising index.
    """

    status: InstanceStatus
    area: int
    free: int = 0
    reclaimed: int = 0
    final: int = 0
    blocker: int | None = None
    met: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """A panoptic segmentation: ``ids`` (0 = VOID) and the segments that those ids name."""

    ids: Int[Tensor, "h w"]
    segments: tuple[Segment, ...]
    records: tuple[InstanceRecord, ...] = ()


@dataclass(frozen=True, eq=False)
class InstanceSet:
    """Detections of one image, best score first (stable).

    masks at the resolution of the output; boxes (N,4) xyxy float in the same frame; scores (N,) in [0, 1]; labels (N,)
    contiguous thing categories.  ``soft`` (N,28,28): mask probabilities of the own class inside the box.
    ``roi_features`` (N,C,14,14): raw RoIAlign features of the base; both only when an occlusion method asks for them.
    """

    masks: MaskCrops
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    soft: Float[Tensor, "n s s"] | None = None
    roi_features: Float[Tensor, "n c r r"] | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and len(value) != n:
                raise ValueError(f"InstanceSet: {item.name} has {len(value)} entries, scores have {n}")

    @staticmethod
    def empty(size: tuple[int, int], channels: int, device: torch.device | str = "cpu") -> InstanceSet:
        """No instances of an image of ``size`` (height, width), with everything that a method may ask for."""
        none = torch.zeros(0, device=device)
        soft, features = none.view(0, 28, 28), none.view(0, channels, 14, 14)
        return InstanceSet(MaskCrops.empty(size, device), none.view(0, 4), none, none.long(), soft, features)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | Sequence[int]) -> InstanceSet:
        """The instances at ``index`` (integers, or a bool tensor), in that order."""
        chosen = torch.as_tensor(index, device=self.scores.device)
        return self._map(lambda value: value[chosen])

    def ranked(self, conf_thr: float = 0.0) -> InstanceSet:
        """Instances with ``score >= conf_thr``, by falling score; ties keep their order."""
        order = torch.argsort(self.scores, descending=True, stable=True)
        return self[order[self.scores[order] >= conf_thr]]

    def to(self, device: torch.device | str) -> InstanceSet:
        """The same instances on ``device``."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Any], Any]) -> InstanceSet:
        present = ((item.name, getattr(self, item.name)) for item in fields(self))
        mapped: dict[str, Any] = {name: function(value) for name, value in present if value is not None}
        return replace(self, **mapped)


@dataclass(frozen=True, eq=False)
class Relation:
    """Who lies in front: ``margin[i, j] > 0`` means i is above j, and counts only where ``valid[i, j]``.

    ``order``: the order in which the fusion offers the instances (None: as given, by score).  ``value`` (N,): the
    key of a unary method, larger = closer.  The flags say what the method guarantees; nothing is symmetrised silently.
    ``score_decides``: pairs in which the scores alone gave the answer, whatever the method sees (None: those that are
    not ``valid``).  ``claims``: for methods that give pixels away one by one, what each instance may take (None: all of
    its mask), mostly a part of its mask; thresholds still compare with the whole mask.  ``duplicate_of``: for methods
    that first suppress detections, the instance that each one repeats (-1: none); the fusion leaves repetitions out.
    ``stuff``: for methods that decide about all pixels, the label of the stuff there (``VOID_LABEL``: none), in place
    of the stuff branch's.
    """

    margin: Float[Tensor, "n n"]
    valid: Bool[Tensor, "n n"]
    order: Int[Tensor, " n"] | None = None
    value: Float[Tensor, " n"] | None = None
    antisymmetric: bool = True
    transitive: bool = False
    score_decides: Bool[Tensor, "n n"] | None = None
    claims: MaskCrops | None = None
    duplicate_of: Int[Tensor, " n"] | None = None
    stuff: Int[Tensor, "h w"] | None = None

    def above(self) -> Bool[Tensor, "n n"]:
        """``above[i, j]``: the method says that i lies above j (a NaN margin says nothing)."""
        return self.valid & (self.margin > 0)


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """What the stuff branch sees in one image, at its original size.

    ``labels``: contiguous stuff label of every pixel, ``VOID_LABEL`` where it sees a thing.  ``logits`` (only when
    asked for): class scores before the softmax; channel c is the contiguous label c + ``first_label``, and with a
    collapsed head the first channel stands for all things.  ``confidence``: by the name of a dilation, the mean
    probability of each connected component (see ``fusion.erasing``), which unknown erasing thresholds.
    """

    labels: Int[Tensor, "h w"]
    logits: Float[Tensor, "c h w"] | None = None
    first_label: int = 0
    confidence: Mapping[str, Float[Tensor, " r"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class GroundTruthRelation:
    """Raw counts of the K non-crowd instances of one image; thresholds and rules are applied late, so a sweep over
    them is one pass over the data.

    ``area[i] = |M_i|``; ``pan_area[i]``: pixels of its panoptic segment (0 without one); ``inter[i, j] = |M_i & M_j|``;
    ``own[i, j]``: pixels of ``M_i & M_j`` that the panoptic map gives to i (OCFusion 3.2).
    """

    area: Int[Tensor, " k"]
    pan_area: Int[Tensor, " k"]
    inter: Int[Tensor, "k k"]
    own: Int[Tensor, "k k"]

    def matrix(
        self, sig_ratio: float, rule: Literal["majority", "delta"] = "majority", strict: bool = False
    ) -> Int[Tensor, "k k"]:
        """(K,K) int8: 1 where i lies above j, 0 where j lies above i, -1 where that is unknown or not significant.

        ``majority``: who owns more of the common pixels (OCFusion).  ``delta``: who lost fewer pixels to the panoptic
        map in total (RAP's script).
        """
        lead = self.lead(rule)
        order = torch.where(lead > 0, 1, torch.where(lead < 0, 0, -1)).to(torch.int8)
        significant = PairStats(self.area, self.inter).significant(sig_ratio, "either", strict)
        return torch.where(significant, order, torch.full_like(order, -1))

    def lead(self, rule: Literal["majority", "delta"] = "majority") -> Int[Tensor, "k k"]:
        """Antisymmetric (K,K) int64: by how many pixels i is ahead of j; 0 is a tie."""
        if rule == "majority":
            return self.own - self.own.T
        if rule == "delta":
            lost = self.area - self.pan_area
            return lost[None, :] - lost[:, None]
        raise ValueError(f"ground-truth rule '{rule}' is unknown; allowed: majority, delta")

    def __len__(self) -> int:
        return len(self.area)

    def __getitem__(self, index: Tensor) -> GroundTruthRelation:
        """The relation among the instances at ``index``."""
        return GroundTruthRelation(
            self.area[index], self.pan_area[index], self.inter[index][:, index], self.own[index][:, index]
        )

    def to(self, device: torch.device | str) -> GroundTruthRelation:
        """The same counts on ``device``."""
        return GroundTruthRelation(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, eq=False)
class Target:
    """Annotations of one image, all in one frame (the network input in training, the original image in evaluation).

    boxes (K,4) xyxy and labels (K,) and masks: the K non-crowd thing instances, annotated in full, so masks overlap;
    panoptic: the ground-truth map, crowds included; ``instance_ids[k]``: dataset id of annotation k; ``relation``:
    its counts come from the original image and are only re-indexed when a crop removes instances.
    """

    boxes: Float[Tensor, "k 4"]
    labels: Int[Tensor, " k"]
    masks: MaskCrops
    panoptic: PanopticMap
    relation: GroundTruthRelation
    instance_ids: Int[Tensor, " k"]

    def semantic(self) -> Int[Tensor, "h w"]:
        """Contiguous category of every pixel, ``VOID_LABEL`` where there is none (int64)."""
        ids = self.panoptic.ids.long()
        present, inverse = torch.unique(ids, return_inverse=True)
        label_of = {segment.id: segment.label for segment in self.panoptic.segments}
        labels = [label_of.get(i, VOID_LABEL) for i in present.tolist()]
        return torch.tensor(labels, dtype=torch.int64, device=ids.device)[inverse]

    def to(self, device: torch.device | str) -> Target:
        """The same target on ``device``."""
        panoptic = replace(self.panoptic, ids=self.panoptic.ids.to(device))
        return replace(
            self,
            boxes=self.boxes.to(device),
            labels=self.labels.to(device),
            masks=self.masks.to(device),
            panoptic=panoptic,
            relation=self.relation.to(device),
            instance_ids=self.instance_ids.to(device),
        )


@dataclass(frozen=True, eq=False)
class Context:
    """What an occlusion method may look at beside the detections; only what its ``requires`` names is there.

    ``image`` (3,H,W) uint8 RGB and ``semantic`` at the resolution of the masks; ``target``: the annotations.
    """

    image: Int[Tensor, "3 h w"] | None = None
    target: Target | None = None
    semantic: SemanticMap | None = None


NO_CONTEXT = Context()


@dataclass(frozen=True, eq=False)
class Sample:
    """One image as the network sees it (3,H,W uint8 RGB), the original's size (height, width), its annotations.

    ``original``: the pixels before they were resized for the network; None when they were not.
    """

    image: Int[Tensor, "3 h w"]
    image_id: int
    file_name: str
    original_size: tuple[int, int]
    target: Target | None = field(default=None)
    original: Int[Tensor, "3 y x"] | None = None

    @property
    def annotations(self) -> Target:
        """The target; ValueError for an image without annotations."""
        if self.target is None:
            raise ValueError(f"image {self.image_id} ({self.file_name}) has no annotations")
        return self.target

    @property
    def original_image(self) -> Int[Tensor, "3 y x"]:
        """The pixels in the frame of the masks and maps; ValueError when only the resized image was kept."""
        image = self.image if self.original is None else self.original
        if tuple(image.shape[1:]) != tuple(self.original_size):
            raise ValueError(
                f"image {self.image_id} ({self.file_name}) of {self.original_size} px was resized to "
                f"{tuple(image.shape[1:])} and its original pixels were not kept"
            )
        return image

    def to(self, device: torch.device | str) -> Sample:
        """The same sample on ``device``."""
        target = None if self.target is None else self.target.to(device)
        original = None if self.original is None else self.original.to(device, non_blocking=True)
        return replace(self, image=self.image.to(device, non_blocking=True), target=target, original=original)


@dataclass(frozen=True, eq=False)
class Batch:
    """Images as the network reads them: normalised, padded to one size; ``sizes`` (height, width) without padding."""

    images: Float[Tensor, "b 3 h w"]
    sizes: tuple[tuple[int, int], ...]
    samples: tuple[Sample, ...]

    def __getitem__(self, index: Sequence[int]) -> Batch:
        """The images at ``index``, with the padding that they have."""
        sizes, samples = tuple(self.sizes[k] for k in index), tuple(self.samples[k] for k in index)
        return Batch(self.images[list(index)], sizes, samples)

    @property
    def targets(self) -> list[Target]:
        """The annotations of all images; ValueError where an image has none."""
        return [sample.annotations for sample in self.samples]
