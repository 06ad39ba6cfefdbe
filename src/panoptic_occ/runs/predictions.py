"""The outputs of a base in every image of a split, kept in files, so that fusing again needs no network.

    <base folder>/predictions_<key>/      <key>: everything at test time that detections depend on, see ``runs.keys``
        base.zip                          detections and stuff
        truth.zip                         the annotations of the same images, many times faster to read than their files
        <occlusion>_<stage key>.zip       head outputs: what a trained occlusion module says of these detections

Masks are bits of their crops, maps are runs of equal pixels, everything else is as it was: reading gives back equal
tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.common.errors import CheckpointError
from panoptic_occ.ops.segment_runs import run_starts
from panoptic_occ.runs.archive import Archive, ArchiveWriter
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.semantic_map import SemanticMap
from panoptic_occ.structures.target import Target

Tensors = dict[str, Tensor]
CONFIDENCE = "confidence_"
NO_IMAGE = torch.zeros((3, 0, 0), dtype=torch.uint8)


class PredictionFiles:
    """The files of the predictions that one base makes of one split with one set of test-time settings.

    ``base``: detections and stuff, ``truth``: annotations.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base.zip"
        self.truth = folder / "truth.zip"

    def head_outputs(self, stage: str) -> Path:
        """What the heads of the occlusion module of ``stage`` (its order and key) put out."""
        return self.folder / f"{stage}.zip"


class PredictionWriter(ExitStack):
    """Stores what an evaluation shows its listeners; a context manager, at whose end all files appear.

    ``about``: header of the detections.  ``stages``: by order, the stage that its head outputs are stored under, and
    their header.
    """

    def __init__(
        self, files: PredictionFiles, about: Mapping[str, Any], stages: Mapping[str, tuple[str, Mapping[str, Any]]]
    ) -> None:
        super().__init__()
        self._base = ArchiveWriter(files.base, about)
        self._truth = ArchiveWriter(files.truth, {"data": about["data"], "files": {}})
        self._heads = {
            order: ArchiveWriter(files.head_outputs(stage), header) for order, (stage, header) in stages.items()
        }

    def __enter__(self) -> Self:
        for archive in (self._base, self._truth, *self._heads.values()):
            self.enter_context(archive)
        self.callback(self._tie)
        return self

    def __call__(self, sample: Sample, output: BaseOutput, maps: Mapping[str, PanopticMap]) -> None:
        """Stores one image."""
        self._base.add(sample.image_id, pack_output(output))
        self._truth.add(sample.image_id, pack_target(sample.annotations))
        self._truth.header["files"][str(sample.image_id)] = sample.file_name
        for order, archive in self._heads.items():
            archive.add(sample.image_id, output.head_outputs[order])

    def _tie(self) -> None:
        """Head outputs belong to exactly these detections, not to those of a later run that replaces the file."""
        for archive in self._heads.values():
            archive.header["detections"] = self._base.digest


class StoredPredictions:
    """The stored predictions of a split, image by image.

    ``stages``: by order, the stage whose head outputs are wanted.  ``advice``: how to make the files.  Raises
    CheckpointError for files that are missing or made for other detections, DataError for damaged ones.
    """

    def __init__(self, files: PredictionFiles, stages: Mapping[str, str], advice: str) -> None:
        self.base = Archive(files.base, advice)
        self.truth = Archive(files.truth, advice)
        if self.truth.header.get("data") != self.base.header.get("data"):
            raise CheckpointError(f"{files.truth}: holds annotations of other data than {files.base.name}; {advice}")
        self.head_outputs = {order: Archive(files.head_outputs(stage), advice) for order, stage in stages.items()}
        for archive in self.head_outputs.values():
            if archive.header["detections"] != self.base.header["digest"]:
                raise CheckpointError(
                    f"{archive.path}: holds head outputs for other detections than {files.base.name} beside it, which "
                    f"was stored again since; {advice}"
                )

    def output(self, image_id: int) -> BaseOutput:
        """The output of the base and of the heads of the occlusion modules in an image."""
        head_outputs = {order: archive.read(image_id) for order, archive in self.head_outputs.items()}
        return unpack_output(self.base.read(image_id), head_outputs)

    def sample(self, image_id: int) -> Sample:
        """The image without its pixels, but with its annotations."""
        target = unpack_target(self.truth.read(image_id))
        return Sample(NO_IMAGE, image_id, self.truth.header["files"][str(image_id)], target.masks.size, target)


def pack_output(output: BaseOutput) -> Tensors:
    """The tensors that are stored of a base's output; soft masks, features and logits are left out."""
    instances, semantic = output.instances, output.semantic
    return {
        **pack_masks(instances.masks),
        "boxes": instances.boxes,
        "scores": instances.scores,
        "labels": instances.labels,
        "area": output.stats.area,
        "inter": output.stats.inter,
        **pack_map("semantic", semantic.labels),
        "first_label": torch.tensor(semantic.first_label),
        **{f"{CONFIDENCE}{dilation}": values for dilation, values in semantic.confidence.items()},
    }


def unpack_output(tensors: Tensors, head_outputs: Mapping[str, Mapping[str, Tensor]]) -> BaseOutput:
    """The output again, with ``head_outputs`` of the occlusion modules."""
    instances = InstanceSet(unpack_masks(tensors), tensors["boxes"], tensors["scores"], tensors["labels"])
    confidence = {
        name.removeprefix(CONFIDENCE): values for name, values in tensors.items() if name.startswith(CONFIDENCE)
    }
    semantic = SemanticMap(
        unpack_map(tensors, "semantic"), first_label=int(tensors["first_label"]), confidence=confidence
    )
    return BaseOutput(instances, PairStats(tensors["area"], tensors["inter"]), semantic, head_outputs)


def pack_target(target: Target) -> Tensors:
    """The tensors that are stored of an image's annotations."""
    segments = [
        (s.id, s.label, s.isthing, s.area, s.iscrowd, -1 if s.instance is None else s.instance)
        for s in target.panoptic.segments
    ]
    return {
        **pack_masks(target.masks),
        "boxes": target.boxes,
        "labels": target.labels,
        "instance_ids": target.instance_ids,
        **pack_map("ids", target.panoptic.ids),
        "segments": torch.tensor(segments, dtype=torch.int64).view(-1, 6),
        **vars(target.relation),
    }


def unpack_target(tensors: Tensors) -> Target:
    """The annotations again."""
    segments = tuple(
        Segment(id_, label, bool(isthing), area, bool(iscrowd), instance=None if instance < 0 else instance)
        for id_, label, isthing, area, iscrowd, instance in tensors["segments"].tolist()
    )
    relation = GroundTruthRelation(**{field.name: tensors[field.name] for field in fields(GroundTruthRelation)})
    return Target(
        tensors["boxes"],
        tensors["labels"],
        unpack_masks(tensors),
        PanopticMap(unpack_map(tensors, "ids"), segments),
        relation,
        tensors["instance_ids"],
    )


def pack_masks(masks: MaskCrops) -> Tensors:
    """Eight pixels to a byte, the crops one after the other."""
    return {
        "mask_bits": torch.from_numpy(np.packbits(masks.pixels.cpu().numpy())),
        "mask_windows": masks.windows.to(torch.int32),
        "mask_size": torch.tensor(masks.size),
    }


def unpack_masks(tensors: Tensors) -> MaskCrops:
    """The masks again."""
    windows: Int[Tensor, "n 4"] = tensors["mask_windows"].long()
    count = int((windows[:, 2] * windows[:, 3]).sum())
    pixels = np.unpackbits(tensors["mask_bits"].numpy(), count=count).view(bool)
    height, width = tensors["mask_size"].tolist()
    return MaskCrops(torch.from_numpy(pixels), windows, (height, width))


def pack_map(name: str, values: Int[Tensor, "h w"]) -> Tensors:
    """The runs of equal pixels, row by row: which of the map's few values they hold, and how long they are."""
    flat = values.cpu().numpy().reshape(-1)
    starts = run_starts(flat)
    distinct, runs = np.unique(flat[starts], return_inverse=True)
    return {
        f"{name}_values": torch.from_numpy(distinct),
        f"{name}_runs": torch.from_numpy(runs.astype(np.uint8 if len(distinct) <= 256 else np.int32)),
        f"{name}_lengths": torch.from_numpy(np.diff(starts, append=flat.size).astype(np.int32)),
    }


def unpack_map(tensors: Tensors, name: str) -> Int[Tensor, "h w"]:
    """The map again."""
    values, runs, lengths = (tensors[f"{name}_{part}"].numpy() for part in ("values", "runs", "lengths"))
    return torch.from_numpy(np.repeat(values[runs], lengths).reshape(tensors["mask_size"].tolist()))
