"""Commands, configuration and what they say when something is misspelt."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from panoptic_occ import cli
from panoptic_occ.commands.app import KEY, command, log_handler
from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.config.compose import compose
from panoptic_occ.config.files import conf_dir, group_choices
from panoptic_occ.runs.plan import RunPlan

EXAMPLES = {"": "the embedded scenes", "method=ocfusion seed=1": "another seed", "-m seed=0,1,2": "a sweep"}
Start = Callable[..., list[DictConfig]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """Runs a command in this process and returns the configurations that its function got."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))

    def run(*arguments: str, then: Callable[[DictConfig], None] = lambda config: None) -> list[DictConfig]:
        seen: list[DictConfig] = []

        @command("train", "Trains.", EXAMPLES)
        def main(plan: RunPlan) -> None:
            config = OmegaConf.create(dict(plan.order.hyperparameters))
            OmegaConf.set_struct(config, True)
            seen.append(config)
            then(config)

        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        main()
        return seen

    return run


def exit_message(start: Start, *arguments: str, then: Callable[[DictConfig], None] = lambda config: None) -> str:
    with pytest.raises(SystemExit) as stopped:
        start(*arguments, then=then)
    assert isinstance(stopped.value.code, str)  # Python prints it on stderr and exits with 1
    return stopped.value.code


def test_a_command_gets_its_configuration(start: Start) -> None:
    (config,) = start("method=panoptic_fpn", "seed=3", "processes=1")
    chosen = [config.choices[group] for group in ("method", "occlusion", "fusion")]
    assert chosen == ["panoptic_fpn", "score", "heuristic"]
    assert (config.method.name, config.backbone_name, config.seed) == ("panoptic_fpn", "small", 3)
    assert config == compose(["method=panoptic_fpn", "seed=3", "processes=1"])
    assert "hydra" not in config


def test_a_command_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    inside: list[str | None] = []
    start(then=lambda config: inside.append(os.environ.get("HYDRA_FULL_ERROR")))
    assert list(tmp_path.iterdir()) == []
    assert inside == [None] and "HYDRA_FULL_ERROR" not in os.environ


def test_the_command_line_wins_over_the_method(start: Start) -> None:
    (config,) = start("method=ocfusion", "occlusion=area", "fusion.min_visible=0.3")
    assert config.choices.occlusion == "area"
    assert config.fusion.min_visible == 0.3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methd=ocfusion", "there is no key or group 'methd'; did you mean 'method'? allowed: average_precision, "),
        ("method=ocfusoin", "group 'method' has no choice 'ocfusoin'; did you mean 'ocfusion'? allowed: banet, oanet"),
        ("sede=3", "there is no key or group 'sede'; did you mean 'seed'?"),
        ("trainer.precison=bf16", "'trainer' has no key 'precison'; did you mean 'precision'? allowed: accelerator, "),
        ("schedule.base.stpes=3", "has no key 'stpes'; did you mean 'steps'?"),
        ("trainer={precison: bf16}", "'trainer' has no key 'precison'; did you mean 'precision'?"),
        ("fusion.sig_ratio=0.1", "'fusion' has no key 'sig_ratio'; did you mean 'occlusion.sig_ratio'? allowed: "),
        ("~fusion.conf", "'fusion' has no key 'conf'; did you mean 'conf_thr'?"),
        ("hydra/launcher=slurm", "'slurm'; did you mean 'slurm_cpu'? allowed: basic, joblib, local, slurm_1gpu, "),
        ("hydra.sweep.dri=x", "there is no key 'hydra.sweep.dri'; --cfg hydra prints"),
        ("ocfusion", "cannot read 'ocfusion'"),
        ("runs_dir=${rnus}", "a value refers to something that does not exist: Interpolation key 'rnus'"),
        ("--config-name=confg", "there is no configuration 'confg.yaml'; did you mean 'config'?"),
        ("+method=ocfusion", "method appears more than once"),
    ],
)
def test_misspelt_input_is_answered_with_what_exists(start: Start, override: str, message: str) -> None:
    answer = exit_message(start, override)
    assert answer.startswith("error: ")
    assert message in answer
    assert "Traceback" not in answer


def test_sweeps_answer_the_same(start: Start) -> None:
    assert "did you mean 'ocfusion'?" in exit_message(start, "-m", "method=ocfusion,ocfusoin")


def test_compose_raises_what_commands_print(start: Start) -> None:
    with pytest.raises(ConfigError) as raised:
        compose(["methd=ocfusion"])
    assert f"error: {raised.value}" == exit_message(start, "methd=ocfusion")


def test_keys_are_those_of_the_chosen_group(start: Start) -> None:
    assert "did you mean 'smaller_on_top'" in exit_message(start, "occlusion=area", "occlusion.smaler_on_top=false")


def fail(error: Exception) -> Callable[[DictConfig], None]:
    def then(config: DictConfig) -> None:
        raise error

    return then


def test_our_errors_are_one_message(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_message(start, then=fail(DataError("a.png: truncated"))) == "error: a.png: truncated"
    assert capsys.readouterr().err == ""
    assert "error: 'nothing' is read here" in exit_message(start, then=lambda config: config.nothing)


@pytest.mark.parametrize("how", ["debug=true", "HYDRA_FULL_ERROR"])
def test_tracebacks_on_request(start: Start, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "HYDRA_FULL_ERROR":
        monkeypatch.setenv(how, "1")
    with pytest.raises(DataError, match="truncated"):
        start(*([how] if "=" in how else []), then=fail(DataError("a.png: truncated")))


def test_faults_of_ours_keep_their_traceback(start: Start) -> None:
    with pytest.raises(ZeroDivisionError):
        start(then=fail(ZeroDivisionError()))


def test_help_lists_groups_keys_and_examples(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        assert start(flag, "methd=ocfusion") == []
        out = capsys.readouterr().out
        words = out.replace(",", " ").split()
        for group, choices in group_choices().items():
            assert group in words
            assert all(choice in words or f"{choice}*" in words for choice in choices), group
        assert "ocfusion*" in words
        for arguments, meaning in EXAMPLES.items():
            assert f"# {meaning}\n  panoptic-occ train {arguments}".rstrip() in out


@pytest.mark.parametrize(
    ("name", "key", "others"),
    [
        ("train", "validate", "output grid check"),
        ("evaluate", "grid", "output check validate"),
        ("predict", "output", "grid check validate save_maps"),
        ("prepare", "check", "grid output validate run"),
    ],
)
def test_the_help_of_a_command_has_its_own_keys_first(
    name: str, key: str, others: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["panoptic-occ", name, "--help"])
    assert not cli.main()
    keys = re.findall(r"^  (\w+) ", capsys.readouterr().out.partition("Groups")[0], re.MULTILINE)
    assert key in keys[: keys.index("force")] and keys[-1] == "debug"
    assert not set(others.split()) & set(keys)


def test_every_key_has_a_sentence_of_help() -> None:
    text = (conf_dir() / "config.yaml").read_text()
    helped = {key: meaning for key, _, _, meaning in KEY.findall(text)}
    without = {"defaults", "hydra", "choices", "command", "method", "backbone_name", "table", "backbones"}
    assert OmegaConf.load(conf_dir() / "config.yaml").keys() - without == helped.keys()
    assert all(meaning[0].isupper() and meaning.endswith(".") for meaning in helped.values())


@pytest.mark.parametrize(
    ("arguments", "status", "out", "err"),
    [
        ([], 2, "", "usage: panoptic-occ COMMAND"),
        (["--help"], 0, "  evaluate  evaluates a run", ""),
        (["trian"], 2, "", "error: there is no command 'trian'; did you mean 'train'? allowed: evaluate, pq, predict"),
        (["-sc", "query=bash"], 0, "predict\nprepare\npq\n", ""),
    ],
)
def test_one_name_for_all_commands(
    arguments: list[str],
    status: int,
    out: str,
    err: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COMP_LINE", "panoptic-occ p")
    monkeypatch.setattr(sys, "argv", ["panoptic-occ", *arguments])
    assert cli.main() == status
    written = capsys.readouterr()
    assert out in written.out and err in written.err


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("panoptic-occ tr", {"train"}),
        ("panoptic-occ train meth", {"method=", "method."}),
        ("panoptic-occ train method=oc", {"method=ocfusion"}),
        ("panoptic-occ evaluate run=r fusion.min", {"fusion.min_visible="}),
    ],
)
def test_a_shell_completes_commands_groups_and_keys(line: str, reply: set[str]) -> None:
    """As Hydra documents it: eval "$(panoptic-occ -sc install=bash)"."""
    program = "from panoptic_occ.cli import main; main()"
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    words = [sys.executable, "-c", program, "-sc", "query=bash"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert set(done.stdout.split()) == reply


def test_own_files_are_composed_and_listed(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "my conf"
    for group in ("method", "occlusion"):
        (conf / group).mkdir(parents=True)
    (conf / "method" / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /occlusion: random\n")
    (config,) = start("--config-dir", str(conf), "method=mine")
    assert config.choices.occlusion == "random"
    assert compose(["method=mine"], conf).choices == config.choices
    answer = exit_message(start, "-cd", str(conf), "method=mnie")
    assert "did you mean 'mine'? allowed: banet, mine, oanet" in answer
    (conf / "occlusion" / "front.yaml").write_text("defaults: [area, _self_]\n")
    (config,) = start("--config-dir", str(conf), "compare=front")
    assert config.compare == ["front"]
    assert "did you mean 'front'?" in exit_message(start, "--config-dir", str(conf), "compare=[frnt]")
    start("--config-dir", str(conf), "--help")
    assert "banet, mine, oanet, ocfusion*" in capsys.readouterr().out


def test_every_group_has_a_place_in_the_defaults() -> None:
    entries = OmegaConf.load(conf_dir() / "config.yaml").defaults
    groups = [key for entry in entries[1:] for key in entry if not key.startswith("override ")]
    assert entries[0] == "_self_"
    # a method chooses for the groups before it, an experiment for all, and a sweep goes over any of them
    assert groups[-3:] == ["method", "experiment", "sweep"]
    assert set(group_choices()) <= set(groups)


def test_the_environment_chooses_the_mode_of_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert compose(["logger=wandb"]).logger.wandb.mode is None  # as there is a key and a server, or not
    monkeypatch.setenv("WANDB_MODE", "online")
    assert compose(["logger=wandb"]).logger.wandb.mode == "online"


def test_log_lines_have_time_and_name_off_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("panoptic_occ.data", logging.WARNING, "", 0, "3 images skipped", None, None)
    log_handler().emit(record)
    assert capsys.readouterr().err.endswith(" WARNING panoptic_occ.data: 3 images skipped\n")
