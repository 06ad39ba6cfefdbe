"""What the image processors of transformers make of a model's output: instances, or a panoptic map, of one image.

``segmentation`` is a map of segment ids, or one binary map for each segment; ``segments_info`` lists the segments with
``id``, ``label_id`` and ``score``.  Some models number from 1 with 0 as background, others from 0 with -1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.common.errors import DataError
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.readers.detections import (
    Detections,
    Scores,
    check_size,
    crops_of,
    detections_of,
    entry,
    known_size,
)
from panoptic_occ.structures.readers.labels import DROPPED, ClassTable
from panoptic_occ.structures.semantic_map import VOID_LABEL

SOURCE = "transformers' segmentation"
BACKGROUND = (-1, 0)
"""Ids of a map that stand for no segment, unless a segment has them."""

Info = Mapping[str, Any]


def read_transformers(
    output: Info, table: ClassTable, scores: Scores | None, size: tuple[int, int] | None
) -> Detections:
    """The segments of an instance segmentation."""
    segments = _segments(output)
    labels = table.labels([entry(segment, "label_id", SOURCE) for segment in segments], SOURCE)
    masks = _masks(output, segments, size)
    return detections_of(masks, _scores(segments) if scores is None else scores, labels, SOURCE)


def read_panoptic(
    output: Info, table: ClassTable, scores: Scores | None, size: tuple[int, int] | None
) -> tuple[Detections, Int[Tensor, "h w"]]:
    """The things of a panoptic segmentation, and the contiguous label of every pixel of stuff, else ``VOID_LABEL``."""
    if table.categories is None:
        raise DataError(f"{SOURCE}: only categories= say which segments are things")
    segments = _segments(output)
    foreign = [entry(segment, "label_id", SOURCE) for segment in segments]
    labels = table.labels(foreign, SOURCE, things_only=False)
    masks = _masks(output, segments, size)
    stuff = torch.full(masks.size, VOID_LABEL, dtype=torch.int64, device=masks.pixels.device)
    first_stuff = table.categories.num_things
    for label, (window, crop) in zip(labels, masks, strict=True):
        if label >= first_stuff:
            stuff[window][crop] = label
    things = [k for k, label in enumerate(labels) if label != DROPPED and label < first_stuff]
    of_things = _scores([segments[k] for k in things]) if scores is None else scores
    return detections_of(masks[things], of_things, [labels[k] for k in things], SOURCE), stuff


def _segments(output: Info) -> list[Info]:
    """The segments, each id once: stuff that was fused is listed again for every part of it.

    DataError where one id stands for several things, as happens when a stuff class comes back: the ids then go on from
    that of the stuff, and the map cannot be taken apart again (huggingface/transformers issue 23461).
    """
    by_id: dict[int, list[Info]] = defaultdict(list)
    for info in entry(output, "segments_info", SOURCE):
        by_id[int(entry(info, "id", SOURCE))].append(info)
    shared = {
        number: infos
        for number, infos in by_id.items()
        if len(infos) > 1
        and (len({info["label_id"] for info in infos}) > 1 or not all(info.get("was_fused") for info in infos))
    }
    if shared:
        listed = "; ".join(f"id {k} has the label_ids {[i['label_id'] for i in v]}" for k, v in shared.items())
        raise DataError(
            f"{SOURCE}: segments share an id, so that their pixels cannot be told apart: {listed}; this is issue 23461 "
            "of transformers: post-process with label_ids_to_fuse=set(), stuff is fused here"
        )
    return [max(infos, key=lambda info: info.get("score") or 0.0) for infos in by_id.values()]


def _scores(segments: list[Info]) -> list[float] | None:
    """The scores of all segments, or None where one has none."""
    scores = [segment.get("score") for segment in segments]
    return None if None in scores else [float(score) for score in scores if score is not None]


def _masks(output: Info, segments: list[Info], size: tuple[int, int] | None) -> MaskCrops:
    """One mask for each of ``segments``: its binary map, or where the map holds its id."""
    segmentation = entry(output, "segmentation", SOURCE)
    if segmentation is None and not segments:
        return MaskCrops.empty(known_size(size, SOURCE))
    if isinstance(segmentation, list):
        raise DataError(
            f"{SOURCE}: is a list of run lengths (return_coco_annotation=True), in which masks cannot overlap; take "
            "return_binary_maps=True, or the map of ids"
        )
    maps = torch.as_tensor(segmentation)
    check_size(maps.shape[-2:], size, SOURCE)
    numbers = [int(segment["id"]) for segment in segments]
    if maps.ndim == 3:
        if sorted(numbers) != list(range(len(maps))):
            raise DataError(
                f"{SOURCE}: {len(maps)} binary maps need the ids 0 .. {len(maps) - 1}, segments_info has {numbers}"
            )
        return crops_of(maps[numbers], SOURCE, 0.5)
    present = set(torch.unique(maps).long().tolist())
    if unlisted := sorted(present - set(numbers) - set(BACKGROUND)):
        raise DataError(
            f"{SOURCE}: the map holds the ids {unlisted[:10]}, which segments_info does not list (it has {numbers}); "
            "give the map and the list of one image"
        )
    ids = torch.tensor(numbers, device=maps.device, dtype=maps.dtype)
    return crops_of(maps[None] == ids[:, None, None], SOURCE)
