"""Names of run folders."""

from __future__ import annotations

from panoptic_occ.runs.folders import overrides_name


def test_words_that_change_results_are_in_the_name_and_those_of_the_machine_are_not() -> None:
    machine = ["trainer=cpu", "trainer.devices=2", "trainer.enable_progress_bar=false", "logger=none", "seed=3"]
    assert overrides_name(machine) == ""
    changing = ["trainer.precision=bf16-mixed", "+trainer.gradient_clip_algorithm=value", "fusion.min_visible=0.4"]
    expected = "fusion.min-visible-0.4_trainer.gradient-clip-algorithm-value_trainer.precision-bf16-mixed"
    assert overrides_name([*machine, *changing]) == expected
