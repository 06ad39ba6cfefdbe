"""A trained run as a function of images, and the command that uses it."""

from __future__ import annotations

import doctest
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import panoptic_occ
from helpers.tiny_runs import TinyRun
from panoptic_occ import pq
from panoptic_occ.commands.predicting import predict
from panoptic_occ.common.errors import CheckpointError, DataError
from panoptic_occ.data.coco.panoptic_io import read_panoptic_png
from panoptic_occ.evaluation import predictor as predictor_module
from panoptic_occ.runs.build import plan_of


@dataclass(frozen=True)
class Trained:
    """A trained run, and the official layout of its data."""

    run: Path
    scenes: Path

    @property
    def image(self) -> Path:
        return min((self.scenes / "val").iterdir())


@pytest.fixture(scope="module")
def tiny(trained: TinyRun, cache: Path) -> Trained:
    (listing,) = cache.rglob("annotations/panoptic_val.json")
    return Trained(trained.folder, listing.parents[1])


def predicted(tiny: Trained, output: Path, *words: str) -> dict[str, object]:
    predict(plan_of([f"run={tiny.run}", f"output={output}", "trainer.enable_progress_bar=false", *words]))
    result: dict[str, object] = json.loads((output / "panoptic.json").read_text())
    return result


@pytest.mark.parametrize("name", ["Prediction", "Predictor", "load"])
def test_examples_of_the_docstrings(tiny: Trained, name: str) -> None:
    names = {**vars(predictor_module), "run": tiny.run, "image": tiny.image}
    tests = doctest.DocTestFinder(recurse=False).find(getattr(predictor_module, name), name, globs=names)
    results = [doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test) for test in tests]
    assert sum(result.attempted for result in results) and not any(result.failed for result in results)


def test_an_image_in_any_form_gives_the_same_map(tiny: Trained) -> None:
    predictor = panoptic_occ.load(tiny.run, "fusion.conf_thr=0.05", "fusion.stuff_area=0")
    picture = Image.open(tiny.image).convert("RGB")
    pixels = np.array(picture)
    forms = [str(tiny.image), picture, pixels, torch.from_numpy(pixels).permute(2, 0, 1)]
    first, *others = [predictor(form) for form in [tiny.image, *forms]]
    assert first.segments and len(first.records) == len(first.instances)
    assert all(torch.equal(other.ids, first.ids) and other.segments == first.segments for other in others)
    for wrong in (pixels[..., 0], pixels.astype(np.float32), torch.zeros(1, 3, 8, 8), 5):
        with pytest.raises(ValueError, match="give uint8 RGB as an array"):
            predictor(wrong)


def test_the_command_writes_what_the_function_gives(tiny: Trained, tmp_path: Path) -> None:
    words = ["fusion.conf_thr=0.05", "fusion.stuff_area=0"]
    result = predicted(tiny, tmp_path / "out", f"input={tiny.image}", *words)
    prediction = panoptic_occ.load(tiny.run, *words)(tiny.image)
    (annotation,), (image,) = result["annotations"], result["images"]
    assert [info["id"] for info in annotation["segments_info"]] == [segment.id for segment in prediction.segments]
    written = read_panoptic_png(tmp_path / "out" / "panoptic" / annotation["file_name"])
    assert np.array_equal(written, prediction.ids.numpy())
    assert image == {"id": 1, "file_name": tiny.image.name, "height": 96, "width": 96}


@pytest.mark.parametrize("listing", ["instances_val.json", "panoptic_val.json"])
def test_images_of_a_json_keep_their_ids_and_names(tiny: Trained, tmp_path: Path, listing: str) -> None:
    source = json.loads((tiny.scenes / "annotations" / listing).read_text())
    result = predicted(tiny, tmp_path / "out", f"images={tiny.scenes / 'annotations' / listing}")
    images = sorted(source["images"], key=lambda entry: entry["id"])
    assert [(i["id"], i["file_name"]) for i in result["images"]] == [(i["id"], i["file_name"]) for i in images]
    assert [entry["image_id"] for entry in result["annotations"]] == [entry["id"] for entry in images]
    scored = tmp_path / "pq.json"
    truth = tiny.scenes / "annotations" / "panoptic_val.json"
    files = ["--gt_json_file", truth, "--pred_json_file", tmp_path / "out" / "panoptic.json", "--json", scored]
    assert pq.main(list(map(str, [*files, "--processes", 1]))) == 0 and scored.exists()


def test_a_json_of_images_elsewhere_or_wrong_is_named(tiny: Trained, tmp_path: Path) -> None:
    def answer(images: object, *words: str) -> str:
        listing = tmp_path / "list.json"
        listing.write_text(json.dumps({"images": images}))
        with pytest.raises(DataError) as error:
            predicted(tiny, tmp_path / "out", f"images={listing}", *words)
        return str(error.value)

    name = tiny.image.name
    assert "has no list 'images'" in answer([])
    assert "a file_name and a whole number as id are needed" in answer([{"id": "seven", "file_name": name}])
    assert "leads out of its folder" in answer([{"id": 7, "file_name": f"../{name}"}])
    assert f"the image '{name}' is not in" in answer([{"id": 7, "file_name": name}])
    assert f"is not in {tmp_path}; input= names" in answer([{"id": 7, "file_name": name}], f"input={tmp_path}")
    twice = [{"id": 7, "file_name": name}, {"id": 8, "file_name": Path(name).with_suffix(".jpg").name}]
    (tmp_path / "two").mkdir()
    for entry in twice:
        (tmp_path / "two" / str(entry["file_name"])).write_bytes(tiny.image.read_bytes())
    assert "would get one map; rename one" in answer(twice, f"input={tmp_path}/two")
    assert not (tmp_path / "out").exists()


def test_what_cannot_predict_says_so(tiny: Trained, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        panoptic_occ.load(tmp_path)
    with pytest.raises(CheckpointError, match="occlusion=rap has not been trained on this base; run: python -m"):
        panoptic_occ.load(tiny.run, "occlusion=rap")
