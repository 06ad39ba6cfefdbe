"""Numbers that no array or drawing can take: the data doctor reports them beside all others and goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.doctor import check


def segmentation(value: Any) -> Callable[[Any], None]:
    return lambda tiny: tiny.instance(12).update(segmentation=value)


def runs(*counts: Any) -> Callable[[Any], None]:
    return segmentation({"size": [12, 16], "counts": list(counts)})


FAR: dict[str, tuple[Callable[[Any], Any], int, str, str]] = {
    "negative run": (runs(-3, 195), 12, "bad segmentation", "the RLE holds a negative run: -3"),
    "negative run later": (runs(3, -2, 191), 12, "bad segmentation", "the RLE holds a negative run: -2"),
    "endless run": (runs(2**70, 1), 12, "bad segmentation", "malformed"),
    "run of nothing": (runs(None), 12, "bad segmentation", "malformed"),
    "run of letters": (runs("a"), 12, "bad segmentation", "malformed"),
    "far corner": (segmentation([[1e300, 1, 5, 1, 5, 5]]), 12, "bad segmentation", "not finite or beyond 1000000"),
    "farther corner": (segmentation([[2**70, 1, 5, 1, 5, 5]]), 12, "bad segmentation", "not finite or beyond 1000000"),
    "instance id": (lambda t: t.instance(12).update(id=2**70), 2**70, "bad id", "does not fit into 64 bits"),
    "negative instance id": (lambda t: t.instance(12).update(id=-(2**70)), -(2**70), "bad id", "does not fit"),
    "segment id": (
        lambda t: t.panoptic[0]["segments_info"].append({"id": 2**70, "category_id": 17, "area": 1}),
        2**70,
        "bad id",
        "1 .. 16777215",
    ),
}


@pytest.mark.parametrize(("spoil", "number", "kind", "part"), FAR.values(), ids=FAR.keys())
def test_the_doctor_reports_and_goes_on(
    tiny_coco: Any, spoil: Callable[[Any], Any], number: int, kind: str, part: str
) -> None:
    spoil(tiny_coco)
    tiny_coco.instance(14).update(category_id=3)  # of a later image
    data = CocoPanoptic.from_root(tiny_coco.write(), tiny_coco.split)
    first, last = check(data)
    assert (first.kind, first.image_id, first.id, first.fatal) == (kind, 5, number, True)
    assert part in first.problem
    assert (last.kind, last.image_id, last.id) == ("unknown category", 7, 14)
    with pytest.raises(DataError) as error:
        data.load(0)
    assert str(error.value) == str(first)


@pytest.mark.parametrize("mode", ["LA", "I;16"])
def test_a_panoptic_png_of_fewer_numbers_a_pixel(tiny_coco: Any, mode: str) -> None:
    tiny_coco.write()
    Image.new(mode, (16, 12)).save(tiny_coco.png_path(5))
    (problem,) = check(CocoPanoptic.from_root(tiny_coco.root, tiny_coco.split))
    assert problem.kind == "unreadable file" and f"mode {mode}" in problem.problem


STRUCTURE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "image id": (lambda t: [x[0].update(id=2**70) for x in (t.images, t.instance_images)], "image id .* 64 bits"),
    "infinite area": (lambda t: t.segment(2).update(area=float("inf")), "a segment of image 5 is malformed"),
    "infinite category": (lambda t: t.instance(12).update(category_id=float("inf")), "an annotation is malformed"),
    "color of two": (lambda t: t.categories[0].update(color=[1, 2]), r"category 101 has the color \[1, 2\]; three"),
    "color of words": (lambda t: t.categories[0].update(color="red"), "category 101 has the color 'red'; three"),
    "category id": (lambda t: t.categories[0].update(id="sky"), "category 'sky' has the id 'sky'; a whole number"),
}


@pytest.mark.parametrize(("spoil", "message"), STRUCTURE.values(), ids=STRUCTURE.keys())
def test_in_the_lists_of_the_file_it_is_one_error(tiny_coco: Any, spoil: Callable[[Any], Any], message: str) -> None:
    spoil(tiny_coco)
    with pytest.raises(DataError, match=f"val2017.json: {message}"):
        CocoPanoptic.from_root(tiny_coco.write(), tiny_coco.split)
