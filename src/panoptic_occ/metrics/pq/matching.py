"""Which prediction belongs to which image: by id, as in the official evaluation, or by file name."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from panoptic_occ.common.errors import DataError
from panoptic_occ.metrics.pq.core import some

ImageId = int | str
Names = Mapping[ImageId, Sequence[str]]
"""File names by image id: that of the image, where it is known, and that of its panoptic map."""


def match_images(images: Names, predictions: Names, image_file: Path, prediction_file: Path) -> dict[ImageId, ImageId]:
    """The id of the prediction of every image.

    If every image has a prediction of its id, that is the one, as in the official evaluation.  Otherwise the prediction
    belongs to the image whose file, or map, has its file name (that of its image, where it is known, or of its map),
    folders and endings aside; to the image of its id only if no image has its name.  Raises DataError, which names the
    files, when there is no image, for images without a prediction, for a name of several, and when ids and names both
    fit all images but contradict each other.
    """
    if not images:
        raise DataError(f"{image_file}: the data set holds no image; 'annotations' is empty")
    by_name = _by_name(images, predictions)
    uses = Counter(number for numbers in by_name.values() for number in numbers)
    unclear = [image_id for image_id, numbers in by_name.items() if len(numbers) > 1 or uses[numbers[0]] > 1]
    if images.keys() <= predictions.keys():
        others = [image_id for image_id, numbers in by_name.items() if image_id not in numbers]
        if others and not unclear and len(by_name) == len(images):
            raise DataError(
                f"{prediction_file}: prediction {_named(others[:1], predictions)} has the image_id of image "
                f"{_named(others[:1], images)} of {image_file} and the file name of another one, as have "
                f"{len(others) - 1} more; give the predictions the ids of their images, or other file names"
            )
        return {image_id: image_id for image_id in images}
    for image_id in images.keys() & predictions.keys() - uses.keys():
        by_name.setdefault(image_id, [image_id])
    if missing := [image_id for image_id in images if image_id not in by_name]:
        raise DataError(
            f"{prediction_file}: no prediction for {len(missing)} of {len(images)} images, by id nor by file name "
            f"(image_id {some(missing, 5)}); predict every image of {image_file}"
        )
    if unclear:
        numbers = by_name[unclear[0]]
        same = [image_id for image_id in unclear if set(by_name[image_id]) & set(numbers)]
        raise DataError(
            f"{prediction_file}: prediction {_named(numbers, predictions)} has the file name of image "
            f"{_named(same, images)} of {image_file}, and the ids do not tell which belongs to which; give every "
            "prediction the image_id of its image, or every image a file name of its own"
        )
    return {image_id: by_name[image_id][0] for image_id in images}


def _by_name(images: Names, predictions: Names) -> dict[ImageId, list[ImageId]]:
    """Predictions with the name of each image; one that has the id of such an image too belongs to that one alone."""
    images_of: dict[str, set[ImageId]] = defaultdict(set)
    for image_id, names in images.items():
        for name in names:
            images_of[_stem(name)].add(image_id)
    by_name: dict[ImageId, list[ImageId]] = {}
    for number, names in predictions.items():
        same_name = images_of.get(_stem(names[0]), set()) if names else set()
        for image_id in {number} & same_name or same_name:
            by_name.setdefault(image_id, []).append(number)
    return by_name


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name.replace("\\", "/")))[0]


def _named(ids: Iterable[ImageId], names: Names) -> str:
    return some([f"{number} ('{names[number][0]}')" for number in ids], 5)
