"""What predict refuses before it reads an image."""

import pytest

from panoptic_occ import prediction
from panoptic_occ.config import compose
from panoptic_occ.errors import ConfigError
from panoptic_occ.runs.folders import RunFolder
from panoptic_occ.testing import toy_categories


@pytest.mark.parametrize(("occlusion", "fix"), [("class_prior", "occlusion=area"), ("ground_truth", "choose another")])
def test_orders_that_need_more_than_an_image(occlusion, fix, tmp_path, monkeypatch):
    (tmp_path / "image.png").touch()
    words = ["experiment=oracle_base", f"occlusion={occlusion}", f"input={tmp_path}", f"output={tmp_path}/out"]
    cfg = compose(words)
    monkeypatch.setattr(prediction, "find_run", lambda cfg, overrides: (cfg, RunFolder(tmp_path)))
    monkeypatch.setattr(prediction, "run_categories", lambda folder: toy_categories())
    with pytest.raises(ConfigError, match=f"occlusion={occlusion} .*{fix}"):
        prediction.predict(cfg, words)
    assert not (tmp_path / "out").exists()
