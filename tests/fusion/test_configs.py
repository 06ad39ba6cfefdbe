"""The thresholds of every conf/fusion file, as published."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from panoptic_occ.errors import ConfigError
from panoptic_occ.fusion.engine import FusionPolicy

CONF = Path(__file__).parents[2] / "conf"

PUBLISHED = {
    "heuristic": FusionPolicy(conf_thr=0.5, max_occluded=0.5, stuff_area=321),
    "ocfusion": FusionPolicy(conf_thr=0.5, min_visible=0.5, stuff_area=321),
    "ocfusion_cityscapes": FusionPolicy(conf_thr=0.5, min_visible=0.6, stuff_area=321),
    "rap": FusionPolicy(conf_thr=0.6, min_visible=0.6, same_class_thr=0.6, duplicate_thr=0.5, stuff_area=321),
}


def policy(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+fusion={name}", "+data.stuff_area=321", "+data.duplicate_thr=null", *overrides])
    return instantiate(config.fusion)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_thresholds(name):
    assert policy(name) == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "fusion").glob("*.yaml")))
def test_every_threshold_can_be_overridden(name):
    keys = ("conf_thr", "max_occluded", "min_visible", "same_class_thr", "duplicate_thr", "stuff_area")
    changed = policy(name, *(f"fusion.{key}=1" for key in keys))
    assert changed == FusionPolicy(1, 1, 1, 1, 1, 1)


def test_a_wrong_value_names_its_key():
    with pytest.raises(Exception, match=r"fusion\.min_visible=1\.5") as caught:
        policy("rap", "fusion.min_visible=1.5")
    assert isinstance(caught.value.__cause__, ConfigError)
