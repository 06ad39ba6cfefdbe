"""A branch that forgets its losses is refused; one made of annotations has none."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from panoptic_occ.stuff.base import StuffBranch
from panoptic_occ.stuff.ground_truth import GroundTruthStuff
from panoptic_occ.testing import toy_categories
from panoptic_occ.thing.base import ThingBranch
from panoptic_occ.thing.ground_truth import GroundTruthThings

NOTHING: Any = None


@pytest.mark.parametrize("base", [ThingBranch, StuffBranch])
def test_a_branch_with_parameters_must_have_losses(base: type[ThingBranch | StuffBranch]) -> None:
    class Forgetful(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 1)

    with pytest.raises(NotImplementedError, match="Forgetful has parameters to train and no losses"):
        Forgetful().losses(NOTHING, NOTHING)
    assert base().losses(NOTHING, NOTHING) == {}


@pytest.mark.parametrize("branch", [GroundTruthThings, GroundTruthStuff])
def test_annotations_have_nothing_to_train(branch: Any) -> None:
    assert branch(in_channels=4, categories=toy_categories()).losses(NOTHING, NOTHING) == {}
