"""A random split and a prediction for it as ``python -m panoptic_occ.pq`` reads them."""

from __future__ import annotations

import json

import numpy as np

from panoptic_occ.data.coco.panoptic_io import write_panoptic_png
from panoptic_occ.pq import main

CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1, "supercategory": "animal", "color": [9, 9, 9]},
    {"id": 8, "name": "dog", "isthing": 1, "supercategory": "animal", "color": [8, 8, 8]},
    {"id": 50, "name": "sky", "isthing": 0, "supercategory": "outdoor", "color": [7, 7, 7]},
]


def save(folder, images, categories=CATEGORIES):
    """Writes ``{image_id: (ids, segments_info)}`` as X.json and X/*.png; returns X.json."""
    annotations = []
    for image_id, (ids, info) in images.items():
        write_panoptic_png(folder / f"{image_id:06}.png", ids)
        annotations.append({"image_id": image_id, "file_name": f"{image_id:06}.png", "segments_info": info})
    file = folder.with_name(folder.name + ".json")
    file.write_text(json.dumps({"annotations": annotations, "categories": categories}))
    return file


def info_of(ids, category_of, crowds=()):
    return [
        {"id": i, "category_id": category_of[i], "area": int((ids == i).sum()), "iscrowd": int(i in crowds)}
        for i in np.unique(ids).tolist()
        if i
    ]


def random_split(folder):
    """70 random images with crowds and void and a prediction for each: more than one chunk, less than three.

    Returns both, image_id -> (ids, segments_info), and the two JSON files.
    """
    rng = np.random.default_rng(5)
    category_of = {i: CATEGORIES[i % 3]["id"] for i in range(1, 8)}
    target, prediction = {}, {}
    for image_id in range(1, 71):
        ids = rng.integers(0, 8, (3, 4)).repeat(5, 0).repeat(6, 1)
        noise = rng.random(ids.shape) < 0.3
        guess = np.where(noise, rng.integers(0, 8, ids.shape), ids)
        target[image_id] = ids, info_of(ids, category_of, crowds={1, 4})
        prediction[image_id] = guess, info_of(guess, category_of)
    return target, prediction, save(folder / "target", target), save(folder / "result", prediction)


def run(gt, result, *more):
    return main(["--gt_json_file", str(gt), "--pred_json_file", str(result), *map(str, more)])


def edited(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
