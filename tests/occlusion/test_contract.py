"""Every file of conf/occlusion passes the tests that all occlusion methods share."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from panoptic_occ.testing import OcclusionContract

CONF = Path(__file__).parents[2] / "conf"
METHODS = sorted(path.stem for path in (CONF / "occlusion").glob("*.yaml"))


class TestEveryMethod(OcclusionContract):
    @pytest.fixture(autouse=True, params=METHODS)
    def _method(self, request):
        self.name = request.param

    def build(self, **common):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(overrides=[f"+occlusion={self.name}", "+schedule.pairs_per_image=16"])
        return instantiate(config.occlusion)(**common)


def test_the_methods_of_the_first_release_are_there():
    assert {"score", "area", "larger", "random", "ground_truth", "ocfusion", "ocfusion_cityscapes"} <= set(METHODS)
