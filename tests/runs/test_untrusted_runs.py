"""A run folder from somebody else is data: it builds only what runs consist of, and no word of it is composed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from panoptic_occ.common.errors import CheckpointError, ConfigError, DataError
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.folders import RunFolder
from panoptic_occ.runs.loading import run_categories
from panoptic_occ.runs.plan import RunPlan

TOUCH = {"_target_": "pathlib.Path.touch"}
TOUCHED = "{a: [{_target_: pathlib.Path.touch}]}"
WORDS = ("fusion.erase_radius={_target_: pathlib.Path.touch}", "hydra.searchpath=[pkg://evil]", "trusted=[pathlib]")


def downloaded(folder: Path, *words: str, **settings: object) -> Path:
    """A run folder whose command is ``words`` and whose configuration has ``settings``."""
    config = compose(["experiment=tiny"])
    OmegaConf.set_struct(config, False)
    config.command = [*config.command, *words]
    OmegaConf.save(OmegaConf.merge(config, settings), folder / "config.yaml")
    return folder


def load(folder: Path, *overrides: str) -> RunPlan:
    return plan_of([f"run={folder}", *overrides])


def test_the_words_of_its_command_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text("raise SystemExit('ran')")
    plan = load(downloaded(tmp_path, *WORDS, compare=["rap"]), "fusion.min_visible=0.3", "fusion.conf_thr=0.6")
    assert (plan.policy.min_visible, plan.policy.conf_thr) == (0.3, 0.6)
    assert [order.name for order in plan.orders] == ["rap", "ocfusion"]


def test_no_advice_repeats_words_that_would_build_something(tmp_path: Path) -> None:
    words = ("schedule.base.steps=7", f"schedule.base.steps={TOUCHED}", f"+schedule.base.a={TOUCHED}")
    commands = [load(downloaded(tmp_path, word)).order.command for word in words]
    assert ["base.steps=7" in command for command in commands] == [True, False, False]
    assert not any("_target_" in command for command in commands)


def test_a_choice_that_is_no_choice_is_not_composed(tmp_path: Path) -> None:
    choices = {"fusion": "../../evil", "hydra.searchpath": "[pkg://evil]", "backbone": "small,hydra/launcher=x"}
    plan = load(downloaded(tmp_path, choices=choices))
    assert plan.policy.conf_thr == compose(["experiment=tiny"]).fusion.conf_thr


@pytest.mark.parametrize("words", [(), ("fusion.min_visible=0.3",), ("fusion=rap",)])
def test_a_class_in_its_configuration_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml: occlusion\._target_='pathlib\.Path\.touch' is not allowed"):
        load(downloaded(tmp_path, occlusion=TOUCH), *words)


def test_a_class_that_it_puts_together_is_refused(tmp_path: Path) -> None:
    hidden = {"half": "_tar", "fusion": {"erase_radius": '${oc.create:"{${half}get_: pathlib.Path.touch}"}'}}
    folder = downloaded(tmp_path, **hidden)
    with pytest.raises(CheckpointError, match=r"config\.yaml: damaged \(line \d+ refers to another value\)"):
        load(folder)


def test_it_cannot_trust_itself(tmp_path: Path) -> None:
    folder = downloaded(tmp_path, occlusion=TOUCH, trusted=["pathlib"])
    with pytest.raises(ConfigError, match=r"pathlib\.Path\.touch.* is not allowed"):
        load(folder)


@pytest.mark.parametrize("name", ["../photos", "/tmp/photos", "..", "a/b"])
@pytest.mark.parametrize("key", ["data", "source"])
def test_it_cannot_name_a_folder_elsewhere(tmp_path: Path, key: str, name: str) -> None:
    settings = {"data": {"name": name} if key == "data" else {"source": {"name": name}}}
    with pytest.raises(ConfigError, match=rf"name='{name}': needs a name for one folder below"):
        load(downloaded(tmp_path, **settings)).data.build()


def test_it_does_not_choose_where_files_are_written(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    source = {"source": {"cache_dir": str(tmp_path / "theirs")}}
    folder = downloaded(tmp_path / "a" / "b", data=source, runs_dir=str(tmp_path / "theirs"))
    mine = f"data.source.cache_dir={tmp_path / 'mine'}"
    for plan, place in ((load(folder), None), (load(folder, mine), str(tmp_path / "mine"))):
        assert [data.settings["source"]["cache_dir"] for data in (plan.data, plan.training_data)] == [place] * 2
    with pytest.raises(ConfigError, match=r"save_predictions=true: the base of .* lies in .*theirs.*; copy the base"):
        load(folder, "save_predictions=true")


DEEP = "a: " + "[" * 50_000
BOMB = "a0: &a0 [x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
CIRCLE = "a: &a {b: *a}"
REFERENCES = "a0: x\n" + "".join(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, r"line 2 has an alias, \*a0"),
        (CIRCLE, r"line 1 has an alias, \*a"),
        (REFERENCES, "line 2 refers to another value"),
        (DEEP, "line 1: its parts lie too deep in each other"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        (f"a: {'7' * 5000}", "digits"),
    ],
)
def test_it_cannot_expand_without_end(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=rf"config\.yaml: damaged \(.*{problem}"):
        load(tmp_path)


def test_a_pipe_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match=r"config\.yaml: damaged \(.*a pipe, not a file"):
        load(tmp_path)


def test_a_command_of_other_things_than_words(tmp_path: Path) -> None:
    downloaded(tmp_path)
    config = OmegaConf.load(tmp_path / "config.yaml")
    config.command = [1, 2, None]
    OmegaConf.save(config, tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match=r"config\.yaml: damaged \(it lacks what train writes\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("schedule.loss_weights", weights) for weights in ({"a": "b"}, {"stuff": None}, None, [1])),
        ("schedule.base.lr", "x"),
        ("seed", -1),
        ("fusion.conf_thr", 7),
    ],
)
def test_a_saved_value_that_the_table_does_not_allow(tmp_path: Path, key: str, value: object) -> None:
    folder = downloaded(tmp_path)
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, key, value, merge=False)
    OmegaConf.save(config, folder / "config.yaml")
    with pytest.raises(ConfigError, match=rf"config\.yaml: {re.escape(key)}=.*: allowed: "):
        load(folder)


def test_a_source_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.source=None: nothing to read"):
        load(downloaded(tmp_path, data={"source": None})).data.build()


@pytest.mark.parametrize("content", ["null", "3", "true"])
def test_categories_that_are_no_list(tmp_path: Path, content: str) -> None:
    (tmp_path / "categories.json").write_text(content)
    with pytest.raises(DataError, match=r"categories\.json: has .* where a list of id, name and isthing is needed"):
        run_categories(RunFolder(tmp_path))
