"""Names of run folders."""

from __future__ import annotations

import pytest

from panoptic_occ.config import compose
from panoptic_occ.errors import ConfigError
from panoptic_occ.runs.folders import overrides_name, run_folder


def test_words_that_change_results_are_in_the_name_and_those_of_the_machine_are_not() -> None:
    machine = ["trainer=cpu", "trainer.devices=2", "trainer.enable_progress_bar=false", "logger=none", "seed=3"]
    assert overrides_name(machine) == ""
    changing = ["trainer.precision=bf16-mixed", "+trainer.gradient_clip_algorithm=value", "fusion.min_visible=0.4"]
    expected = "fusion.min-visible-0.4_trainer.gradient-clip-algorithm-value_trainer.precision-bf16-mixed"
    assert overrides_name([*machine, *changing]) == expected


@pytest.mark.parametrize("name", ["''", ".", "..", "../photos", "a/b", "/tmp/x", "base_0123456789"])
def test_a_run_name_cannot_lead_to_other_folders(name: str) -> None:
    """force=true removes the folder of a run."""
    with pytest.raises(ConfigError, match=r"run_name=.*: needs a name for one folder below runs/scenes"):
        run_folder(compose([f"run_name={name}"]))


def test_a_run_may_be_named_by_a_number() -> None:
    assert run_folder(compose(["run_name=42"])).path.name == "42"
