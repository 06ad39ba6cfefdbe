"""Detections of one image, as every package passes them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.readers.labels import ClassNames, ClassTable, ForeignClass, UnknownRule

if TYPE_CHECKING:
    from panoptic_occ.structures.readers.coco import ImageId, Json, MissingRule, Sizes
    from panoptic_occ.structures.readers.detections import Detections, Scores


@dataclass(frozen=True, eq=False)
class InstanceSet:
    """N detections of one image, best score first (stable).

    ``masks`` at the resolution of the output; ``boxes`` xyxy in px of the same frame; ``scores`` in [0, 1]; ``labels``:
    contiguous thing categories.  Only when an occlusion method asks for them: ``soft`` (N,28,28), mask probabilities of
    the predicted class inside the box, and ``roi_features`` (N,C,14,14), raw RoIAlign features of the base.
    Raises ValueError when the lengths differ, and for masks that are no crops.

    ``from_...`` read the detections of other packages.  They share these arguments: ``categories`` of the data set, to
    whose labels classes are matched; ``names`` of the class numbers of the model; ``unknown="drop"`` leaves out
    detections of classes that the data set does not have, by default a DataError (a ValueError) lists these;
    ``scores``, one or one for each, in place of those of the source; ``size`` (height, width) of the image.

    >>> import torch
    >>> from panoptic_occ import InstanceSet, MaskCrops
    >>> masks = MaskCrops.from_dense(torch.ones(2, 4, 4).bool())
    >>> pair = InstanceSet(masks, masks.boxes, scores=torch.tensor([0.4, 0.9]), labels=torch.tensor([0, 1]))
    >>> pair.ranked(conf_thr=0.3).labels.tolist()
    [1, 0]
    """

    masks: MaskCrops
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    soft: Float[Tensor, "n s s"] | None = None
    roi_features: Float[Tensor, "n c r r"] | None = None

    def __post_init__(self) -> None:
        masks: object = self.masks
        if not isinstance(masks, MaskCrops):
            kind = type(masks).__name__
            raise ValueError(f"InstanceSet: masks is a {kind}; crops are meant: MaskCrops.from_dense(masks)")
        for name, value in vars(self).items():
            if value is not None and len(value) != len(self):
                raise ValueError(f"InstanceSet: {name} has {len(value)} entries, scores have {len(self)}")

    @staticmethod
    def empty(size: tuple[int, int], channels: int, device: torch.device | str = "cpu") -> InstanceSet:
        """No instances of an image of ``size`` (height, width), with everything that a method may ask for."""
        none = torch.zeros(0, device=device)
        soft, features = none.view(0, 28, 28), none.view(0, channels, 14, 14)
        return InstanceSet(MaskCrops.empty(size, device), none.view(0, 4), none, none.long(), soft, features)

    @staticmethod
    def from_masks(
        masks: Any,
        scores: Scores,
        labels: ForeignClass | Iterable[ForeignClass] = 0,
        *,
        boxes: Any = None,
        threshold: float | None = None,
        categories: Categories | None = None,
        names: ClassNames | None = None,
        size: tuple[int, int] | None = None,
        unknown: UnknownRule = "error",
    ) -> InstanceSet:
        """Dense masks of any origin: (N, H, W), (N, 1, H, W) or a list of (H, W), soft ones with a ``threshold``.

        ``labels``: contiguous ones, numbers that ``names`` names, or names; one for each or one for all.
        ``boxes`` xyxy; without them those of the masks.

        >>> cats = torch.ones(2, 4, 4).bool()
        >>> InstanceSet.from_masks(cats, scores=[0.4, 0.9], labels=[1, 0]).labels.tolist()
        [0, 1]
        """
        from panoptic_occ.structures.readers.plain import read_masks

        table = ClassTable(categories, names, unknown)
        return _ranked(read_masks(masks, scores, labels, table, boxes, threshold, size))

    @staticmethod
    def from_coco_results(
        results: Json,
        images: Json | Sizes | None = None,
        *,
        categories: Categories | None = None,
        names: ClassNames | None = None,
        scores: float | None = None,
        missing: MissingRule = "error",
        unknown: UnknownRule = "error",
    ) -> Mapping[ImageId, InstanceSet]:
        """The detections of every image by its id, from a list of results or an instances JSON (a file or its content).

        ``images``: where the sizes of the images are, a JSON with a list ``images`` or {id: (height, width)}; not
        needed for an instances JSON.  Its crowds are left out, and it needs ``scores``.  Masks are drawn when an image
        is asked for.  Class numbers are dataset ids, unless ``names`` says more.  ``missing="empty"``: images without a
        result are those in which nothing was detected.

        >>> cat = {"image_id": 9, "category_id": 0, "score": 0.5, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]}
        >>> InstanceSet.from_coco_results([cat], {9: (4, 6)})[9].masks.area.tolist()
        [4]
        """
        from panoptic_occ.structures.readers.coco import read_coco

        return read_coco(results, images, ClassTable(categories, names, unknown), scores, missing, _ranked)

    @staticmethod
    def from_torchvision(
        output: Mapping[str, Any],
        *,
        threshold: float = 0.5,
        categories: Categories | None = None,
        names: ClassNames | None = None,
        scores: Scores | None = None,
        size: tuple[int, int] | None = None,
        unknown: UnknownRule = "error",
    ) -> InstanceSet:
        """The dictionary of one image that torchvision's Mask R-CNN gives.

        A pixel belongs to a mask from ``threshold`` on.  Class numbers are dataset ids, as with the weights for COCO,
        unless ``names`` says more.

        >>> masks, boxes = torch.full((1, 1, 2, 2), 0.7), torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        >>> output = {"masks": masks, "boxes": boxes, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
        >>> InstanceSet.from_torchvision(output).masks.area.tolist()
        [4]
        """
        from panoptic_occ.structures.readers.torchvision import read_torchvision

        return _ranked(read_torchvision(output, ClassTable(categories, names, unknown), scores, threshold, size))

    @staticmethod
    def from_detectron2(
        instances: Any,
        *,
        threshold: float = 0.5,
        categories: Categories | None = None,
        names: ClassNames | None = None,
        scores: Scores | None = None,
        unknown: UnknownRule = "error",
    ) -> InstanceSet:
        """detectron2's ``Instances`` of one image, or the dictionary that a predictor gives.

        ``pred_classes`` are contiguous labels, or numbers in ``names``, such as the ``thing_classes`` of the metadata.
        ``threshold``: of masks that are soft.
        """
        from panoptic_occ.structures.readers.detectron2 import read_detectron2

        return _ranked(read_detectron2(instances, ClassTable(categories, names, unknown), scores, threshold))

    @staticmethod
    def from_transformers(
        output: Mapping[str, Any],
        *,
        categories: Categories | None = None,
        names: ClassNames | None = None,
        scores: Scores | None = None,
        size: tuple[int, int] | None = None,
        unknown: UnknownRule = "error",
    ) -> InstanceSet:
        """One image of ``post_process_instance_segmentation`` of transformers.

        With its ``return_binary_maps=True`` masks overlap; in a map of ids their order is decided already.
        ``label_id`` are contiguous labels, or numbers in ``names``, such as ``model.config.id2label``.

        >>> info = [{"id": 0, "label_id": 3, "score": 0.9}]
        >>> output = {"segmentation": torch.tensor([[0, 0, -1]]), "segments_info": info}
        >>> InstanceSet.from_transformers(output).boxes.tolist()
        [[0.0, 0.0, 2.0, 1.0]]
        """
        from panoptic_occ.structures.readers.transformers import read_transformers

        return _ranked(read_transformers(output, ClassTable(categories, names, unknown), scores, size))

    @staticmethod
    def from_transformers_panoptic(
        output: Mapping[str, Any],
        categories: Categories,
        *,
        names: ClassNames | None = None,
        scores: Scores | None = None,
        size: tuple[int, int] | None = None,
        unknown: UnknownRule = "error",
    ) -> tuple[InstanceSet, Int[Tensor, "h w"]]:
        """One image of ``post_process_panoptic_segmentation``: the things, and the stuff label of every pixel or -1.

        ``categories`` says which is which.  DataError where several segments share an id, as transformers numbers them
        when a stuff class comes back (its issue 23461).
        """
        from panoptic_occ.structures.readers.transformers import read_panoptic

        things, stuff = read_panoptic(output, ClassTable(categories, names, unknown), scores, size)
        return _ranked(things), stuff

    @staticmethod
    def from_supervision(
        detections: Any,
        *,
        categories: Categories | None = None,
        names: ClassNames | None = None,
        scores: Scores | None = None,
        size: tuple[int, int] | None = None,
        unknown: UnknownRule = "error",
    ) -> InstanceSet:
        """``supervision.Detections`` of one image, and so what supervision reads: inference, SAM, and many others.

        Classes are numbers in ``names``, else the ``class_name`` that the detections carry, else contiguous labels.
        ``size`` is needed where nothing was detected.
        """
        from panoptic_occ.structures.readers.supervision import read_supervision

        return _ranked(read_supervision(detections, ClassTable(categories, names, unknown), scores, size))

    @staticmethod
    def from_ultralytics(
        result: Any,
        *,
        categories: Categories | None = None,
        names: ClassNames | None = None,
        scores: Scores | None = None,
        unknown: UnknownRule = "error",
    ) -> InstanceSet:
        """The ``Results`` of one image of a segmentation model of ultralytics; its own class names serve as ``names``.

        Masks of the size of the network's input are resized; ``retina_masks=True`` of the model makes sharper ones.
        """
        from panoptic_occ.structures.readers.ultralytics import read_ultralytics

        return _ranked(read_ultralytics(result, ClassTable(categories, names, unknown), scores))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | Sequence[int]) -> InstanceSet:
        """The instances at ``index`` (integers, or a bool tensor), in that order."""
        index = torch.as_tensor(index, device=self.scores.device)
        return self._map(lambda value: value[index])

    def ranked(self, conf_thr: float = 0.0) -> InstanceSet:
        """Instances with ``score >= conf_thr``, by falling score; ties keep their order."""
        order = by_score(self.scores)
        return self[order[self.scores[order] >= conf_thr]]

    def to(self, device: torch.device | str) -> InstanceSet:
        """The same instances on ``device``."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Any], Any]) -> InstanceSet:
        return replace(self, **{name: function(value) for name, value in vars(self).items() if value is not None})


def _ranked(detections: Detections) -> InstanceSet:
    return InstanceSet(**vars(detections)).ranked()


def by_score(scores: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Indices by falling score; ties keep their order."""
    return torch.argsort(scores, descending=True, stable=True)
