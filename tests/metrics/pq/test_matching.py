"""Predictions find their images by id, or by file name."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from helpers.pq_split import edited, run
from panoptic_occ.common.errors import DataError
from panoptic_occ.metrics.pq.matching import match_images

IMAGES = {139: ["val/cat.jpg", "maps/139.png"], 285: ["dog.jpg", "285.png"]}


def matched(images, predictions):
    return match_images(images, predictions, Path("gt.json"), Path("result.json"))


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ({139: ["1.png"], 285: ["2.png"], 7: ["cat.png"]}, {139: 139, 285: 285}),  # the ids agree: names do not matter
        ({139: [], 285: ["139.png"]}, {139: 139, 285: 285}),
        ({1: ["cat.png"], 2: ["out/dog.png"], 3: ["cow.png"]}, {139: 1, 285: 2}),
        ({1: ["139.png"], 2: ["285.png"]}, {139: 1, 285: 2}),  # named as the maps of the ground truth
        ({1: ["cat.jpeg", "0.png"], 2: ["dog.jpeg", "139.png"]}, {139: 1, 285: 2}),  # the name of the image counts
        ({"a": ["cat.png"], 139: ["dog.png"]}, {139: "a", 285: 139}),  # 139 is another image's number by chance
        ({1: ["cat.png"], 139: ["cow.png"], 2: ["dog.png"]}, {139: 1, 285: 2}),
        ({139: ["first.png"], 2: ["dog.png"]}, {139: 139, 285: 2}),  # an id, where the name is that of no image
    ],
)
def test_the_prediction_of_every_image(predictions, expected):
    assert matched(IMAGES, predictions) == expected


SAME_NAME = {5: ["a/1.jpg"], 6: ["b/1.jpg"], 7: ["c/2.jpg"]}


@pytest.mark.parametrize(
    ("images", "predictions", "message"),
    [
        (IMAGES, {1: ["cat.png"], 2: ["cow.png"]}, r"^result.json: no prediction for 1 of 2 images.* 285\).* gt.json"),
        (IMAGES, {139: ["dog.png"], 2: ["cow.png"]}, r"no prediction for 1 of 2 images, by id nor .* 139\)"),
        (
            IMAGES,
            {1: ["a/cat.png"], 2: ["b/cat.png"], 3: ["dog.png"]},
            r"^result.json: prediction 1 \('a/cat.png'\), 2 \('b/cat.png'\) has the file name of image 139 "
            r"\('val/cat.jpg'\) of gt.json, .*; give every prediction the image_id of its image",
        ),
        (
            SAME_NAME,
            {1: ["1.png"], 2: ["2.png"]},
            r"prediction 1 \('1.png'\) has the file name of image 5 \('a/1.jpg'\), 6 \('b/1.jpg'\) of gt.json, .* "
            "every image a file name of its own",
        ),
        (
            IMAGES,
            {139: ["dog.png"], 285: ["cat.png"]},
            r"^result.json: prediction 285 \('cat.png'\) has the image_id of image 285 \('dog.jpg'\) of gt.json "
            "and the file name of another one, as have 1 more; give the predictions the ids",
        ),
        ({}, {1: ["cat.png"]}, "^gt.json: the data set holds no image"),
    ],
)
def test_what_is_unclear_is_refused(images, predictions, message):
    with pytest.raises(DataError, match=message):
        matched(images, predictions)


def test_the_id_decides_between_images_of_one_name():
    predictions = {5: ["1.png"], 6: ["1.png"], 1: ["2.png"]}
    assert matched(SAME_NAME, predictions) == {5: 5, 6: 6, 7: 1}


@pytest.mark.parametrize("listed", ["in images", "by the maps"])
def test_numbers_are_those_of_the_same_ids(split, tmp_path, capsys, listed):
    """Renumbered by chance; names come from the JSONs' ``images``, or are those of the maps."""

    def scores():
        assert run(*split[2:], "--json", tmp_path / "pq.json", "--processes", 1) == 0
        return json.loads((tmp_path / "pq.json").read_text()), capsys.readouterr().err

    expected, silence = scores()
    assert silence == ""
    numbers = random.Random(0).sample(range(1, 100), 70)

    def renumber(content):
        if listed == "in images":
            content["images"] = [
                {"id": number, "file_name": f"photos/{entry['image_id']:03}.jpg"}
                for number, entry in zip(numbers, content["annotations"], strict=True)
            ]
        for number, entry in zip(numbers, content["annotations"], strict=True):
            entry["image_id"] = number
            if listed == "in images":
                file = tmp_path / "result" / entry["file_name"]
                entry["file_name"] = file.rename(file.with_name(f"map{number}.png")).name

    def name_images(content):
        content["images"] = [{"id": k, "file_name": f"{k:03}.jpg"} for k in range(1, 71)]

    edited(split[3], renumber)
    if listed == "in images":
        edited(split[2], name_images)
    again, note = scores()
    assert again == expected
    others = sum(number != k for k, number in enumerate(numbers, start=1))
    assert note == f"note: {others} predictions were matched by file name, as their image_ids differ\n"
    edited(split[3], lambda content: content["annotations"].pop())
    assert run(*split[2:]) == 1
    assert re.search("no prediction for 1 of 70 images, by id nor by file name", capsys.readouterr().err)


def test_lists_of_images_that_say_nothing_do_no_harm(split):
    edited(split[2], lambda content: content.update(images=[None, {"id": [1]}, {"id": 1}, {"id": 2, "file_name": 3}]))
    edited(split[3], lambda content: content.update(images="none"))
    assert run(*split[2:], "--processes", 1) == 0
