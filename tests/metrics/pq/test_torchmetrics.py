"""``PanopticQuality`` as users of torchmetrics and Lightning call it, and beside the metric that they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matplotlib import pyplot
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.detection import PanopticQuality as Theirs

from panoptic_occ.common.errors import DataError
from panoptic_occ.metrics.pq.metric import PanopticQuality, panoptic_quality
from panoptic_occ.metrics.pq.pairs import maps_of_pairs
from panoptic_occ.structures.categories import Categories

THINGS, STUFF, UNKNOWN = (4, 17), (2, 90), 33
CATEGORIES = Categories.from_json(
    {"id": k, "name": f"name {k}", "isthing": int(k in THINGS)} for k in (*STUFF, *THINGS)
)


def pairs(rng: np.random.Generator, categories: tuple[int, ...]) -> np.ndarray:
    """(12, 16, 2): patches of a category and an instance."""
    patches = np.stack([rng.choice(categories, (4, 4)), rng.integers(-1, 3, (4, 4))], axis=-1)
    return patches.repeat(3, axis=0).repeat(4, axis=1)


def batch(seed: int, size: int = 3) -> tuple[Tensor, Tensor]:
    """Predictions that know a category for every pixel, and targets with some of unknown ids."""
    rng = np.random.default_rng(seed)
    target = np.stack([pairs(rng, (*THINGS, *STUFF, UNKNOWN)) for _ in range(size)])
    guess = np.stack([pairs(rng, (*THINGS, *STUFF)) for _ in range(size)])
    wrong = (rng.random(target.shape[:3]) < 0.2) | (target[..., 0] == UNKNOWN)
    return torch.from_numpy(np.where(wrong[..., None], guess, target)), torch.from_numpy(target)


def ours(*batches: tuple[Tensor, Tensor], **options: Any) -> PanopticQuality:
    metric = PanopticQuality(CATEGORIES, **options)
    for preds, target in batches:
        metric.update(preds, target)
    return metric


BATCHES = [batch(seed) for seed in range(4)]
PQ = ours(*BATCHES).result().all.pq


@pytest.mark.parametrize("seed", range(20))
def test_equals_torchmetrics_where_the_rules_agree(seed: int) -> None:
    """Without crowds, and with a category for every predicted pixel; VOID in the target is the same for both."""
    preds, target = batch(seed)
    metric = ours((preds, target))
    theirs = Theirs(things=set(THINGS), stuffs=set(STUFF))
    theirs.update(preds, target)
    for name, state in zip(("tp", "fp", "fn"), ("true_positives", "false_positives", "false_negatives"), strict=True):
        assert getattr(metric, name).tolist() == getattr(theirs, state).tolist()
    assert 0 < metric.compute().item() < 1
    assert metric.compute().item() == pytest.approx(theirs.compute().item(), abs=1e-6)  # theirs divide in float32


def test_pixels_predicted_as_void_leave_the_union_in_torchmetrics_only() -> None:
    """2 of 4 pixels, the rest VOID: IoU .5 and no match by COCO's rules, 1 by torchmetrics'."""
    target = torch.tensor([[[[4, 1]] * 4]])
    preds = torch.tensor([[[[4, 1]] * 2 + [[UNKNOWN, 0]] * 2]])
    metric = ours((preds, target), allow_unknown_preds_category=True)
    theirs = Theirs(set(THINGS), set(STUFF), allow_unknown_preds_category=True)
    assert (metric.compute().item(), theirs(preds, target).item()) == (0, 1)


def test_maps_of_pairs_by_hand() -> None:
    """A stuff category is one segment, instances of the same number differ between categories, unknown ids are VOID."""
    row = [[90, 1], [90, 2], [4, 1], [17, 1], [17, -5], [UNKNOWN, 1], [4, 1], [2, 0]]
    (panoptic,) = maps_of_pairs(torch.tensor([[row]], dtype=torch.int32), CATEGORIES, "target", unknown_is_void=True)
    by_id = {s.id: (s.label, s.isthing, s.area) for s in panoptic.segments} | {0: None}
    cat, sky = (0, True, 2), (3, False, 2)
    expected = [sky, sky, cat, (1, True, 1), (1, True, 1), None, cat, (2, False, 1)]
    assert [by_id[i] for i in panoptic.ids[0].tolist()] == expected
    assert len({*panoptic.ids[0].tolist()}) == 6


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, ">i4"])
def test_pairs_of_numpy(dtype: Any) -> None:
    preds, target = BATCHES[0]
    metric = PanopticQuality(CATEGORIES)
    metric.update(preds.numpy().clip(0).astype(dtype), target.numpy().clip(0).astype(dtype))
    assert metric.result() == ours((preds.clip(0), target.clip(0))).result()


@pytest.mark.parametrize(
    ("preds", "words"),
    [
        (list(BATCHES[0][0]), r"preds is a list that holds a Tensor; .*torch\.stack\(preds\)"),
        (list(BATCHES[0][0].numpy()), "preds is a list that holds a ndarray; a PanopticMap, a sequence"),
        (BATCHES[0][0].double().numpy(), "preds is a ndarray of float64; .*whole numbers"),
        ({"a": 1}, "preds is a dict; a PanopticMap"),
        (None, "preds is a NoneType; a PanopticMap"),
    ],
)
def test_what_is_no_map(preds: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        PanopticQuality(CATEGORIES).update(preds, BATCHES[0][1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int8])
def test_the_counts_keep_their_type(dtype: torch.dtype) -> None:
    metric = ours(*BATCHES).set_dtype(dtype)
    assert metric.result().all.pq == PQ and metric.iou.dtype == torch.int64
    metric.update(*BATCHES[0])
    assert metric.result() == ours(*BATCHES, BATCHES[0]).result()
    MetricCollection({"pq": metric}).set_dtype(dtype)
    assert metric.iou.dtype == torch.int64


def test_maps_and_pairs_may_be_mixed() -> None:
    preds, target = BATCHES[0]
    maps = maps_of_pairs(target, CATEGORIES, "target", unknown_is_void=True)
    guesses = maps_of_pairs(preds, CATEGORIES, "preds", unknown_is_void=False)
    expected = panoptic_quality(guesses, maps, CATEGORIES)
    for mixed in ((preds, maps), (guesses, target), (guesses, maps)):
        assert ours(mixed).result() == expected  # type: ignore[arg-type]


ROW = torch.tensor([[[[4, 1], [2, 0]]]])


@pytest.mark.parametrize(
    ("preds", "target", "words"),
    [
        (ROW[0], ROW, r"preds has the shape \(1, 2, 2\); \(B, H, W, 2\).*preds\[None\]"),
        (ROW, ROW[..., :1], r"target has the shape \(1, 1, 2, 1\)"),
        (ROW.float(), ROW, "preds is torch.float32"),
        (
            torch.tensor([[[[4, 1], [33, 0]]]]),
            ROW,
            r"preds\[0\] holds the category ids 33.*2, 4, 17, 90.*allow",
        ),
        (ROW.expand(2, -1, -1, -1), ROW, "2 preds, 1 target"),
        (ROW, ROW[:, :, :1], "of the predicted map"),
    ],
)
def test_other_tensors(preds: Tensor, target: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        ours((preds, target))


class Validated(pl.LightningModule):
    """What a user writes."""

    def __init__(self, metrics: PanopticQuality | MetricCollection) -> None:
        super().__init__()
        self.metrics = metrics
        self.batch_values: list[Any] = []

    def validation_step(self, batch: Any, index: int) -> None:
        self.batch_values.append(self.metrics(*batch))
        if isinstance(self.metrics, MetricCollection):
            self.log_dict(self.metrics)  # type: ignore[arg-type]
        else:
            self.log("pq", self.metrics, on_step=True, on_epoch=True, prog_bar=True)


def logged(metrics: PanopticQuality | MetricCollection, folder: Path) -> tuple[dict[str, float], list[Any]]:
    module = Validated(metrics)
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **quiet)
    for _ in range(2):  # the second epoch must not hold the first one
        trainer.validate(module, torch.utils.data.DataLoader(BATCHES, batch_size=None), verbose=False)  # type: ignore[arg-type]
    return {name: value.item() for name, value in trainer.callback_metrics.items()}, module.batch_values


@pytest.mark.filterwarnings("ignore")
class TestInLightning:
    def test_log(self, tmp_path: Path) -> None:
        values, of_batches = logged(PanopticQuality(CATEGORIES), tmp_path)
        assert values["pq_epoch"] == values["pq"] == PQ
        assert [value.item() for value in of_batches[:4]] == [ours(each).result().all.pq for each in BATCHES]

    def test_log_dict_of_a_collection(self, tmp_path: Path) -> None:
        collection = MetricCollection({"pq": PanopticQuality(CATEGORIES)}, prefix="val_")
        assert logged(collection, tmp_path)[0] == {"val_pq": PQ}


def test_a_collection_shares_the_counts_and_names_the_classes() -> None:
    metrics = {"pq": PanopticQuality(CATEGORIES), "classes": PanopticQuality(CATEGORIES, return_per_class=True)}
    collection = MetricCollection(metrics)  # type: ignore[arg-type]
    for preds, target in BATCHES:
        collection.update(preds=preds, target=target)
    expected = {scores.name: scores.pq for scores in ours(*BATCHES).result().per_class}
    assert list(expected) == ["name 4", "name 17", "name 2", "name 90"]
    assert {name: value.item() for name, value in collection.compute().items()} == {"pq": PQ, **expected}
    assert len(collection.compute_groups) == 1


def test_categories_of_one_name_are_told_apart() -> None:
    twins = Categories.from_json({"id": k, "name": "cat" if k < 3 else "sky", "isthing": 1} for k in (1, 2, 3))
    assert list(PanopticQuality(twins, return_per_class=True).compute()) == ["cat 1", "cat 2", "sky"]


def test_plot() -> None:
    matplotlib.use("agg")
    metric = PanopticQuality(CATEGORIES)
    steps = [metric(*each) for each in BATCHES]
    per_class = ours(*BATCHES, return_per_class=True)
    for value, of, labels in ((None, metric, []), (steps, metric, [""]), (None, per_class, list(per_class.compute()))):
        figure, axes = of.plot(value)
        drawn = axes.get_legend_handles_labels()[1]
        assert drawn == [label for label in labels if label]
        assert axes.get_lines()
        pyplot.close(figure)
    _, axes = metric.plot()
    assert axes.get_lines()[0].get_ydata()[0] == PQ
