"""What one network says, recorded or stored, serve a whole grid of thresholds."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.evaluation import perfect
from panoptic_occ.common.parallel import ordered_map
from panoptic_occ.evaluation import stored as saved
from panoptic_occ.evaluation.evaluator import Evaluation, Recording
from panoptic_occ.evaluation.stored import evaluate_stored
from panoptic_occ.evaluation.variants import build_evaluation, variants_of
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.predictions import PredictionFiles, PredictionWriter, StoredPredictions
from panoptic_occ.testing import IN_CHANNELS, toy_categories, toy_sample

Rows = dict[str, dict[str, float]]
GRID = "{fusion.min_visible: [0.3, 0.6], fusion.conf_thr: [0.5, 0.7], occlusion.sig_ratio: [0.05, 0.5]}"
TOYS = [toy_sample(6, seed, size=(48, 64)) for seed in range(8)]


def toy_evaluation(*words: str, recording: Recording | None = None) -> Evaluation:
    """OCFusion with weights that are always the same, but not those it is born with, and the settings of ``words``."""
    plan = plan_of(["fusion.stuff_area=1", "compare=[]", *words])
    model = plan.order.build(IN_CHANNELS, toy_categories()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    variants = variants_of(plan.orders, {plan.method: model}, toy_categories())
    return build_evaluation(plan, variants, toy_categories(), recording=recording)


@torch.inference_mode()
def rows_of(evaluation: Evaluation) -> Rows:
    for sample in TOYS:
        evaluation.update(sample, perfect(sample))
    return evaluation.rows()


def test_a_grid_is_the_product_of_separate_evaluations() -> None:
    rows = rows_of(toy_evaluation(f"grid={GRID}", recording=Recording()))
    assert len(rows) == 8 and len({json.dumps(row) for row in rows.values()}) > 5
    for visible, conf_thr, ratio in product((0.3, 0.6), (0.5, 0.7), (0.05, 0.5)):
        fusion = f"fusion.min_visible={visible}", f"fusion.conf_thr={conf_thr}"
        alone = rows_of(toy_evaluation(*fusion, f"occlusion.sig_ratio={ratio}"))["ocfusion"]
        assert rows[f"ocfusion | min_visible={visible}, conf_thr={conf_thr}, sig_ratio={ratio}"] == alone


def test_a_network_is_asked_once_for_a_whole_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    from panoptic_occ.occlusion.ocfusion import OCFusion

    calls, head_outputs = [], OCFusion.head_outputs
    monkeypatch.setattr(OCFusion, "head_outputs", lambda self, *a, **k: calls.append(k) or head_outputs(self, *a, **k))
    rows_of(toy_evaluation(f"grid={GRID}", recording=Recording()))
    assert calls == [{"wide": True}] * len(TOYS)


def test_stored_predictions_give_the_same_rows_in_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = PredictionFiles(tmp_path)
    recorded = toy_evaluation(f"grid={GRID}", recording=Recording())
    with PredictionWriter(files, {"data": ""}, {"ocfusion": ("ocfusion_1", {})}) as writer:
        recorded.listeners = (writer,)
        rows = rows_of(recorded)
    predictions = StoredPredictions(files, {"ocfusion": "ocfusion_1"}, "")
    data: Any = SimpleNamespace(
        eval_data=SimpleNamespace(image_ids=torch.tensor([s.image_id for s in TOYS])), num_eval_images=len(TOYS)
    )
    monkeypatch.setattr(saved, "FUSIONS_A_BLOCK", 8 * 3)  # blocks of three images
    monkeypatch.setattr(saved, "FUSIONS_A_WORKER", 8 * 4)  # eight images are worth two workers
    spread: list[int] = []
    monkeypatch.setattr(saved, "ordered_map", lambda *a, **k: spread.append(a[3]) or ordered_map(*a, **k))
    for processes in (1, 2):
        again = toy_evaluation(f"grid={GRID}")
        evaluate_stored(again, predictions, data, processes)
        assert again.rows() == rows
    data.num_eval_images = 5  # only the first images: not worth a worker
    again = toy_evaluation()
    evaluate_stored(again, predictions, data, 2)
    assert spread == [1, 2, 1]
    alone = toy_evaluation()
    for sample in TOYS[:5]:
        alone.update(sample, perfect(sample))
    assert again.rows()["ocfusion"]["pairs"] == alone.rows()["ocfusion"]["pairs"] < rows_of(alone)["ocfusion"]["pairs"]
