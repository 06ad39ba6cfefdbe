"""COCO's two kinds of JSON files as every reader needs them: numbers as numbers, truth values as truth values.

``CocoJson`` is the only parser of annotations: the data set, its relations and the doctor, panoptic quality and average
precision read the same truth.  Nothing here imports torch, so that evaluation workers start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import read_json
from panoptic_occ.common.scalars import TRUTH_VALUES, truth_value, whole_number
from panoptic_occ.structures.categories import Categories

T = TypeVar("T")
Id = TypeVar("Id", int, int | str)
Entry = Mapping[str, Any]
ImageId = int | str
MAX_INT64 = 2**63 - 1
"""Ids beyond it are in no array."""


@dataclass(frozen=True)
class SegmentRecord:
    """One entry of ``segments_info``; a prediction states neither area nor crowd."""

    id: int
    category_id: int
    area: float
    iscrowd: bool


@dataclass(frozen=True)
class Annotation:
    """One entry of the instances JSON; ``bbox`` is x, y, width, height, or empty.

    ``id``: its own among all of the file, ``given_id`` what the file says, or its place there.  ``area`` and
    ``segmentation`` are those of the file, which nobody has checked.
    """

    id: int
    given_id: object
    category_id: int
    iscrowd: bool
    bbox: tuple[float, ...]
    area: Any
    segmentation: Any


class CocoJson:
    """A JSON of ``kind``, with the lists that it must have.

    Ids may be text, ``"12"`` for 12.  Every method raises DataError, which names the file, the entry and the value.
    """

    def __init__(self, file: Path, kind: Literal["panoptic", "instances"], *lists: str) -> None:
        self.file, self.kind = file, kind
        content = read_json(file)
        for key in lists:
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                keys = sorted(content) if isinstance(content, dict) else type(content).__name__
                raise DataError(f"{file}: has no list '{key}' (found: {keys}); a COCO {kind} JSON is needed here")
        self.content: dict[str, Any] = content

    def categories(self) -> Categories:
        """The categories of a panoptic JSON."""
        return Categories.from_json(self.content["categories"], str(self.file))

    def images(self) -> dict[int, Entry]:
        """The entries of ``images`` by id."""
        images: dict[int, Entry] = {}
        for entry in self.content["images"]:
            image_id = self.number(entry, "id", "an image")
            if image_id in images:
                raise DataError(f"{self.file}: image id {image_id} appears twice; ids must be unique")
            images[image_id] = entry
        return images

    def size(self, entry: Entry, what: str) -> tuple[int, int]:
        """(height, width) of an image."""
        return self.number(entry, "height", what), self.number(entry, "width", what)

    def maps(self, convert: Callable[[Any], Id]) -> dict[Id, Entry]:
        """The ``annotations`` of a panoptic JSON by the id of their image, read by ``whole_id`` or ``id_or_name``."""
        maps: dict[Id, Entry] = {}
        for entry in self.content["annotations"]:
            image_id = self.value(entry, "image_id", "an annotation", convert)
            if image_id in maps:
                raise DataError(f"{self.file}: image {image_id} is listed twice in 'annotations'; keep one of them")
            maps[image_id] = entry
        return maps

    def segments(self, entry: Entry, what: str, *, predicted: bool = False) -> tuple[SegmentRecord, ...]:
        """The segments of an annotation of a panoptic JSON."""
        segments = []
        for info in self.value(entry, "segments_info", what, _list):
            number = self.number(info, "id", f"{what}, a segment")
            which = f"{what}, segment {number}"
            category = self.number(info, "category_id", which)
            area = 0 if predicted else self.value(info, "area", which, _finite)
            segments.append(SegmentRecord(number, category, area, not predicted and self.iscrowd(info, which)))
        return tuple(segments)

    def instances(self) -> Iterator[tuple[int, Annotation]]:
        """The ``annotations`` of an instances JSON, each with the id of its image.

        Where an id is 0, repeated, missing or no whole number, all are numbered anew from 1: COCO's evaluation, for
        one, takes 0 for no annotation at all.
        """
        entries = self.content["annotations"]
        ids: list[Any] = [entry.get("id") if isinstance(entry, Mapping) else None for entry in entries]
        usable = all(type(number) is int and 0 < number <= MAX_INT64 for number in ids) and len(set(ids)) == len(ids)
        for k, (entry, number) in enumerate(zip(entries, ids, strict=True), start=1):
            given = f"no. {k}" if number is None else number
            image_id = self.number(entry, "image_id", f"annotation {given}")
            what = f"annotation {given} of image {image_id}"
            boxed = entry.get("bbox") is not None
            yield (
                image_id,
                Annotation(
                    id=number if usable else k,
                    given_id=given,
                    category_id=self.number(entry, "category_id", what),
                    iscrowd=self.iscrowd(entry, what),
                    bbox=self.value(entry, "bbox", what, _floats) if boxed else (),
                    area=entry.get("area"),
                    segmentation=entry.get("segmentation"),
                ),
            )

    def number(self, entry: Entry, key: str, what: str) -> int:
        """A whole number, which may be text."""
        return self.value(entry, key, what, whole_id)

    def name(self, entry: Entry, key: str, what: str) -> str:
        """A text."""
        return self.value(entry, key, what, _text)

    def iscrowd(self, entry: Entry, what: str) -> bool:
        """``iscrowd``, 0 where it is missing or null."""
        return entry.get("iscrowd") is not None and self.value(entry, "iscrowd", what, truth_value)

    def value(self, entry: Entry, key: str, what: str, convert: Callable[[Any], T]) -> T:
        """``entry[key]`` by one of the functions of ``NEEDED``."""
        if not isinstance(entry, Mapping) or key not in entry:
            keys = sorted(entry) if isinstance(entry, Mapping) else f"{entry!r:.80}"
            raise DataError(
                f"{self.file}: {what} lacks '{key}' (found: {keys}); a COCO {self.kind} JSON is needed here"
            )
        try:
            return convert(entry[key])
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{self.file}: {what} has the {key} {entry[key]!r:.80}; {NEEDED[convert]} is needed here"
            ) from None


def whole_id(value: object) -> int:
    """A whole number, or its digits; ValueError for others, and for one beyond 64 bits."""
    number = whole_number(value)
    if abs(number) > MAX_INT64:
        raise ValueError(number)
    return number


def id_or_name(value: object) -> ImageId:
    """The id of an image: a whole number, its digits, or a name such as those of Cityscapes; ValueError for others."""
    try:
        return whole_id(value)
    except ValueError:
        return _text(value)


def name_in(folder: Path, name: str) -> str:
    """``name``; with slashes for its backslashes, as Windows writes them, where only that file exists in ``folder``."""
    slashed = name.replace("\\", "/")
    return slashed if slashed != name and not (folder / name).exists() and (folder / slashed).exists() else name


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(value)
    return value


def _finite(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_INT64:
        raise ValueError(value)
    return value


def _floats(value: object) -> tuple[float, ...]:
    return tuple(map(float, _list(value)))


NEEDED: Mapping[Callable[[Any], Any], str] = {
    whole_id: "a whole number of 64 bits",
    id_or_name: "a number or a name",
    truth_value: TRUTH_VALUES,
    _text: "a name",
    _list: "a list",
    _finite: "a number",
    _floats: "a list of numbers",
}
"""What the functions that read a value take, for messages; all raise ValueError or TypeError for anything else."""
