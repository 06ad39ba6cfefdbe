"""Every conf/exchange file builds a base whose stage 1 knows the names of its losses."""

from __future__ import annotations

import pytest
import torch

from panoptic_occ.config.files import conf_dir
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import build_model
from panoptic_occ.testing import toy_categories, toy_sample

TINY = ("experiment=tiny", "method=panoptic_fpn")


@pytest.mark.parametrize("choice", sorted(path.stem for path in (conf_dir() / "exchange").glob("*.yaml")))
def test_stage_one_runs(choice: str) -> None:
    model = build_model(plan_of([*TINY, f"exchange={choice}"]), toy_categories()).train()
    losses = model.base_losses([toy_sample(3, size=(64, 64))])
    assert {"rpn_cls", "rpn_box", "cls", "box"} < losses.keys()
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())


def test_the_weight_of_stuff_reaches_every_semantic_loss_of_ibpp() -> None:
    """lambda_s multiplies every stuff_t and nothing else."""
    words = [*TINY, "exchange=ibpp", "exchange.iterations=1"]
    losses = []
    for weight in (1, 4):
        model = build_model(plan_of([*words, f"schedule.loss_weights.stuff={weight}"]), toy_categories()).train()
        torch.manual_seed(0)
        losses.append(model.base_losses([toy_sample(3, size=(64, 64))]))
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], (4 if name.startswith("stuff_") else 1) * loss)


def test_ibpp_reads_the_depth_of_the_mask_head_from_the_thing_branch() -> None:
    model = build_model(plan_of([*TINY, "exchange=ibpp", "thing.mask_convs=3"]), toy_categories())
    heads = [head.mask_head for head in model.exchange.mask_heads]  # type: ignore[union-attr]
    assert [len(head) for head in heads] == [3, 3] and len(model.thing.roi_heads.mask_head) == 3  # type: ignore[arg-type]
