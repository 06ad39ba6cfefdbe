"""The names of trained weights: settings that came later leave the old names alone where they are at their defaults."""

from __future__ import annotations

import pytest
from omegaconf import open_dict

from panoptic_occ.config.compose import compose
from panoptic_occ.runs.keys import base_key, stage_key

LATER = [
    ("occlusion=oanet", "occlusion.pool=any"),
    ("occlusion=refine", "occlusion.gt_rule=delta"),
    ("occlusion=rap", "occlusion.pair_mean=annotations"),
]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(("order", "changed"), LATER)
def test_a_setting_that_came_later_counts_where_it_is_not_at_its_default(order: str, changed: str, joint: bool) -> None:
    words = [order, f"joint={joint}"]
    now, before, other = compose(words), compose(words), compose([*words, changed])
    with open_dict(before.occlusion):
        del before.occlusion[changed.partition("=")[0].removeprefix("occlusion.")]
    assert base_key(now) == base_key(before) and stage_key(now) == stage_key(before) != stage_key(other)
    assert (base_key(other) != base_key(now)) == joint


@pytest.mark.parametrize("order", ["occlusion=ocfusion", "occlusion=rap"])
def test_a_setting_that_others_got_later_stays_in_the_keys_of_those_that_always_had_it(order: str) -> None:
    now, without = compose([order]), compose([order])
    with open_dict(without.occlusion):
        del without.occlusion.gt_rule
    assert stage_key(now) != stage_key(without)


@pytest.mark.parametrize(
    ("order", "changed"),
    [("banet", "colors=normalized"), ("banet", "tie_break=index"), ("oanet", "ranking=multiply")],
)
def test_settings_of_the_test_alone_share_the_weights(order: str, changed: str) -> None:
    words = [f"occlusion={order}"]
    assert stage_key(compose(words)) == stage_key(compose([*words, f"occlusion.{changed}"]))
