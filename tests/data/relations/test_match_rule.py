"""``data.source.match`` reaches training images and their cache; validation images keep the usual rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.coco.source import CocoSource, relations_path
from panoptic_occ.data.relations.build import build_relations


def test_the_rule_reaches_training_data_and_cache(tiny_coco: Any, tmp_path: Path) -> None:
    root = tiny_coco.write()
    source = CocoSource(root, "val2017", "val2017", tmp_path, match="box")
    train, val = source.split("train"), source.split("val")
    assert (train.match, val.match) == ("box", "share")
    assert relations_path(source, train) != relations_path(source, val)
    cache = build_relations(train, relations_path(source, train))
    for index in range(len(train)):
        cached = cache.get(int(train.image_ids[index]))
        assert cached is not None and torch.equal(train.target(index).relation.own, cached.own)
    with pytest.raises(ConfigError, match=r"data\.source\.match='boxes' is unknown; did you mean 'box'"):
        CocoSource(root, match="boxes")  # type: ignore[arg-type]
