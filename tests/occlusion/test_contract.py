"""Every file of conf/occlusion passes the tests that all occlusion methods share."""

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from panoptic_occ.common.kinds import Scope
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.occlusion.oanet import SpatialRanking
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.occlusion.rap import RAP
from panoptic_occ.occlusion.refine import SoftOcclusion
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


@pytest.mark.parametrize(
    ("order", "fusion_only"),
    [
        (OcclusionModel, {"significance", "intra", "inter"}),
        (OCFusion, {"logit_thr", "sym"}),
        (SoftOcclusion, {"sigma", "sym"}),
        (RAP, {"sig_ratio"}),
        (SpatialRanking, {"ranking", "probability"}),
    ],
)
def test_parameters_that_training_does_not_read_are_marked(order, fusion_only):
    kinds = get_type_hints(order.__init__, include_extras=True)
    assert {name for name, kind in kinds.items() if Scope.RESULT in get_args(kind)} == fusion_only
    assert order.scope is Scope.MODULE  # of all others
