"""Which grids there are, and what their points are called."""

from __future__ import annotations

import pytest

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.config.grid import Grid


def grid(text: str, *words: str) -> Grid:
    return Grid.of(compose([f"grid={text}", *words]))


@pytest.mark.parametrize(
    "text",
    [
        "{fusion.min_visible: [0.4, 0.5], occlusion.sig_ratio: [0.1], fusion.duplicate_thr: [null, 0.5]}",
        "{fusion: {min_visible: [0.4, 0.5], duplicate_thr: [null, 0.5]}, occlusion.sig_ratio: [0.1]}",
    ],
)
def test_product_of_each_group(text: str) -> None:
    parsed = grid(text)
    assert [tuple(point.values()) for point in parsed.points("fusion")] == [
        (0.4, None),
        (0.4, 0.5),
        (0.5, None),
        (0.5, 0.5),
    ]
    assert parsed.points("occlusion") == [{"occlusion.sig_ratio": 0.1}]
    assert parsed.title(parsed.points("fusion")[0]) == "min_visible=0.4, duplicate_thr=null"


def test_no_grid_is_one_point_without_a_name() -> None:
    empty = Grid.of(compose())
    assert empty.points("fusion") == empty.points("occlusion") == [{}] and empty.title({}) == ""


def test_a_plus_adds_keys_one_by_one() -> None:
    parsed = Grid.of(compose(["+grid.fusion.min_visible=[0.4,0.5]", "+grid.occlusion.logit_thr=[0,0.5]"]))
    assert parsed.values == {"fusion.min_visible": [0.4, 0.5], "occlusion.logit_thr": [0, 0.5]}


def test_a_method_that_learns_nothing_can_vary_everything() -> None:
    points = grid("{occlusion.resolve: [order, atoms]}", "occlusion=banet").points("occlusion")
    assert points == [{"occlusion.resolve": "order"}, {"occlusion.resolve": "atoms"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{data.seed: [1, 2]}",
            r"data\.seed is not something that one pass can vary; allowed: fusion\.canvas_sig_ratio, ",
        ),
        ("{data.seed: [1, 2]}", r"make a run of each value: python -m panoptic_occ\.train -m data\.seed=\.\.\."),
        ("{fusion.min_visble: [1, 2]}", "'fusion' has no key 'min_visble'; did you mean 'min_visible'"),
        ("{fusion._target_: [a, b]}", "'fusion' has no key '_target_'"),
        ("{occlusion.channels: [64, 128]}", r"occlusion\.channels is part of what occlusion=ocfusion was trained with"),
        ("{occlusion.channels: [64, 128]}", r"allowed: .*occlusion\.logit_thr, occlusion\.sig_ratio"),
        ("{fusion.min_visible: 0.4}", r"grid\.fusion\.min_visible=0\.4: a grid gives every key a list"),
        ("{fusion.min_visible: []}", "a list of different values"),
        ("{fusion.min_visible: [0.4, 0.4]}", "a list of different values"),
        ("[1, 2]", r"grid=\[1, 2\]: a grid gives every key a list"),
    ],
)
def test_what_a_grid_cannot_vary(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(text)
