"""The thresholds of every conf/fusion file, as published, and values that no policy can have."""

import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.values import shown
from panoptic_occ.fusion.policy import FusionPolicy

CONF = Path(__file__).parents[2] / "conf"
# what the fusion reads of the data group
DATA = ("+data.stuff_area=321", "+data.stuff_component_area=321", "+data.erase_radius=3")
DATA_VALUES = {"stuff_area": 321, "erase_radius": 3}

PUBLISHED = {
    "heuristic": FusionPolicy(conf_thr=0.5, max_occluded=0.5, **DATA_VALUES),
    "ocfusion": FusionPolicy(conf_thr=0.5, min_visible=0.5, **DATA_VALUES),
    "ocfusion_cityscapes": FusionPolicy(conf_thr=0.5, min_visible=0.6, **DATA_VALUES),
    "refine": FusionPolicy(conf_thr=0.5, min_visible=0.5, **DATA_VALUES, erase_thr=0.4),
    "rap": FusionPolicy(conf_thr=0.6, min_visible=0.6, same_class_thr=0.6, duplicate_thr=0.5, **DATA_VALUES),
}


def policy(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+fusion={name}", *DATA, *overrides])
    return instantiate(config.fusion)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_thresholds(name):
    assert policy(name) == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "fusion").glob("*.yaml")))
def test_every_threshold_can_be_overridden(name):
    words = {"stuff_rule": "component", "duplicate_areas": "canvas", "same_class_strict": True, "erase_after": True}
    words |= {"erase_shape": "disk", "erase_stride": 4}
    expected = {key.name: words.get(key.name, 1) for key in fields(FusionPolicy)}
    assert asdict(policy(name, *(f"fusion.{key}={value}" for key, value in expected.items()))) == expected


def test_a_wrong_value_names_its_key():
    with pytest.raises(Exception, match=r"fusion\.min_visible=1\.5") as caught:
        policy("rap", "fusion.min_visible=1.5")
    assert isinstance(caught.value.__cause__, ConfigError)


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("conf_thr", 1.5, "allowed: a number, 0 to 1"),
        ("conf_thr", None, "allowed: a number, 0 to 1"),
        ("max_occluded", -0.1, "0 to 1, or null"),
        ("min_visible", "half", "0 to 1, or null"),
        ("same_class_thr", float("nan"), "0 to 1, or null"),
        ("duplicate_thr", 50, "0 to 1, or null"),
        ("post_min_visible", 1.1, "0 to 1, or null"),
        ("erase_thr", 1.5, "0 to 1, or null"),
        ("stuff_area", -1, "0 or more"),
        ("stuff_area", 1.5, "allowed: a whole number, 0 or more, or a number, 0 or more, below 1"),
        ("stuff_area", 1.0, "below 1"),
        ("erase_radius", -1, "0 or more"),
        ("erase_radius", 0.5, "whole number"),
        ("same_class_strict", "yes", "allowed: true or false"),
        ("erase_after", 1, "allowed: true or false"),
        ("duplicate_areas", "canvass", "did you mean 'canvas'"),
        ("stuff_rule", "components", "did you mean 'component'"),
        ("erase_shape", "disc", "did you mean 'disk'"),
        ("erase_stride", 2, "allowed: 1, 4"),
    ],
)
def test_impossible_values_are_named(key, value, hint):
    with pytest.raises(ConfigError, match=f"{re.escape(f'fusion.{key}={shown(value)}: ')}.*{re.escape(hint)}"):
        FusionPolicy(**{key: value})
