"""From a configuration to the plan of a run: the last place below the commands that sees a configuration."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.files import check_folder_name
from panoptic_occ.common.kinds import Scope
from panoptic_occ.config.compose import check_values, compose, order_configs, stage_of_order
from panoptic_occ.config.grid import Grid, Values, inside
from panoptic_occ.config.instantiate import Blueprint, check_targets
from panoptic_occ.config.of_run import config_of_run, read_config
from panoptic_occ.config.schema import (
    COMPUTING,
    SETTINGS,
    Setting,
    entries_of,
    in_names,
    setting_of_word,
    values_of,
)
from panoptic_occ.config.values import is_path
from panoptic_occ.fusion.engine import FusionPolicy
from panoptic_occ.runs.folders import RunFolder
from panoptic_occ.runs.keys import base_key, differences, module_key, name_of_words, predictions_key
from panoptic_occ.runs.plan import BasePlan, EvaluationPlan, OrderPlan, PolicyPlan, RunPlan

_RESULT = frozenset({Scope.RESULT})
_EVALUATION = frozenset({Scope.RESULT, Scope.DETECTIONS, Scope.INPUT})


def run_plan(
    config: DictConfig,
    words: Sequence[str] = (),
    trained: DictConfig | None = None,
    config_dir: Path | None = None,
) -> RunPlan:
    """The plan of a finished ``config`` (``compose``); ``words``: those of the command line, which name the folders.

    ``trained``: the configuration of the run that ``config`` evaluates, if it is one of ``run=``: its weights and
    folders are those, whatever data ``config`` names.  ``config_dir``: of the user's own configuration files, if no
    command line says it.  ConfigError for what cannot be right.
    """
    if config.trainer.get("fast_dev_run"):  # a place of its own, and nothing that trackers would keep
        config = config.copy()
        config.logger, config.validate.every = None, 1  # Lightning has a debugging run validate in any case
        config.runs_dir = str(Path(config.runs_dir) / f".fast_dev_run_{_command_id()}")
    run = trained or config
    base = _base(run)
    names = compared(config)
    configs = order_configs(config, names, config_dir)
    points = {str(config.choices.occlusion): Grid.of(config).points("occlusion")}
    orders = [_order(configs[name], base, points.get(name, [{}])) for name in names]
    policy: FusionPolicy = Blueprint[FusionPolicy](config.fusion).build()
    named = RunFolder(Path(config.run)) if trained is not None else run_folder(config, words)
    loggers = config.logger or {}
    for name, settings in loggers.items():
        if not OmegaConf.is_dict(settings):
            raise ConfigError(
                f"logger.{name}={settings}: every logger has its settings under a key of its own, as in "
                "conf/logger/csv.yaml; several: 'logger=[csv,wandb]'"
            )
    return RunPlan(
        folder=named,
        training_folders=[run_folder(config, _without(config, words, part)) for part in (_RESULT, _EVALUATION)],
        runs_dir=Path(config.runs_dir),
        data_choice=str(config.choices.data),
        data_name=str(config.data.name),
        seed=config.seed,
        method=str(config.choices.occlusion),
        orders=orders,
        base=base,
        data=Blueprint(_data(config)),
        training_data=Blueprint(_data(run)),
        policy=policy,
        evaluation=_evaluation(config, words, base, trained),
        trainer=Blueprint(config.trainer),
        loggers={str(name): Blueprint(settings) for name, settings in loggers.items()},
        validate_every=config.validate.every,
        validate_images=config.validate.images,
        processes=config.processes,
        options=values_of(config, {Scope.COMMAND}),
        training=values_of(run, {Scope.BASE, Scope.MODULE}),
        words=words,
    )


def _command_id() -> str:
    """The same in all processes of a command, however they were started."""
    given = (os.environ.get(name) for name in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"))
    return next(filter(None, given), None) or os.environ.setdefault("PANOPTIC_OCC_COMMAND", str(os.getpid()))


def plan_of(words: Sequence[str], config_dir: Path | None = None) -> RunPlan:
    """The plan that a command gets for these words, also with ``run=``."""
    key = "run="
    run = next((word.removeprefix(key) for word in words if word.startswith(key)), "null")
    if run == "null":
        return run_plan(compose(words, config_dir), words, config_dir=config_dir)
    trusted = compose([word for word in words if word.startswith("trusted=")]).trusted
    return plan_of_run(Path(run), words, trusted, config_dir)


def plan_of_run(
    folder: Path, words: Sequence[str], trusted: Iterable[str] = (), config_dir: Path | None = None
) -> RunPlan:
    """The plan of a command about the run in ``folder``; ``words``: those of the command line, on top of its settings.

    ``trusted``: packages whose classes its file may name.  CheckpointError when there is no run; ConfigError when a
    word would change what was trained, or when the file names a class that a run folder may not build.
    """
    file = RunFolder(folder).config
    saved = read_config(file)
    check_targets(saved, file, trusted)
    try:
        check_values(saved)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    saved.runs_dir = _home(folder, saved)
    config = config_of_run(saved, words, config_dir)
    config.run, config.runs_dir = str(folder), saved.runs_dir
    if config.save_predictions and Path(saved.runs_dir).resolve() != folder.resolve().parent.parent:
        raise ConfigError(
            f"save_predictions=true: the base of {folder} lies in {saved.runs_dir}, a folder that only its file names, "
            "and nothing is written there; copy the base into the folder beside the run"
        )
    trained = saved.copy()
    for key in (key for key, entries in entries_of(trained) if any(_is_place(entry) for entry in entries)):
        OmegaConf.update(trained, key, OmegaConf.select(config, key, default=None))
    before, after = _base(trained).settings, _base(config).settings
    # of what trained the base, an evaluation may have its own data, and its own device with that one's precision
    free = ("trainer.", "data." if any(word.lstrip("+").startswith("data=") for word in words) else "data.source.")
    kept = {key: after.get(key) if not key.startswith(free) else value for key, value in before.items()}
    kept |= {key: value for key, value in after.items() if key not in before and not key.startswith(free)}
    if changed := differences(before, kept):
        raise ConfigError(f"{folder}: its base was trained with other settings: {changed}")
    return run_plan(config, words, trained, config_dir)


def _is_place(entry: Setting) -> bool:
    """Whether files are written to what a setting names; a run folder from elsewhere does not choose the place."""
    return entry.scope is Scope.MACHINE and is_path(entry.kind)


def _home(folder: Path, saved: DictConfig) -> str:
    """The folder of all runs: where this one lies now, wherever it was when it trained, if its base lies there too."""
    here, before = folder.absolute().parent.parent, Path(saved.runs_dir)
    base = _base(saved).folder.path.relative_to(before)
    return str(here if here != before.absolute() and (here / base).exists() else before)


def comparable_of(file: Path) -> dict[str, Any]:
    """``comparable`` of the configuration that a run has saved."""
    return comparable(read_config(file))


def training_of(file: Path) -> dict[str, Any]:
    """The settings of the weights of the run that has saved its configuration in ``file``, by dotted key."""
    return values_of(read_config(file), {Scope.BASE, Scope.MODULE})


def compared_of(file: Path) -> list[str]:
    """The orders of the run that has saved its configuration in ``file``."""
    return compared(read_config(file))


def compared(config: DictConfig) -> list[str]:
    """The orders of an evaluation: those of ``compare`` and the run's own; the ceiling is read last."""
    names = list(dict.fromkeys([*map(str, config.compare), str(config.choices.occlusion)]))
    return sorted(names, key=lambda name: name == "ground_truth")


def run_folder(config: DictConfig, words: Sequence[str] = ()) -> RunFolder:
    """The folder of the run that ``config`` describes; ``words``: those of the command line."""
    name = config.run_name
    if name is None:
        told = name_of_words(word for word in words if in_names(config, word))
        parts = (config.method.name, config.backbone_name, f"s{config.seed}", told)
        name = "_".join(part for part in parts if part)
    elif str(name).startswith("base_"):
        raise ConfigError(
            f"run_name={str(name)!r}: needs a name for one folder below {_data_folder(config)} that is not that of a "
            "base (base_...)"
        )
    return RunFolder(_data_folder(config) / check_folder_name("run_name", name, _data_folder(config)))


def _data_folder(config: DictConfig) -> Path:
    """The folder of all runs on a data set."""
    runs = Path(config.runs_dir)
    return runs / check_folder_name("data.name", config.data.name, runs)


def _without(config: DictConfig, words: Iterable[str], scopes: Collection[Scope]) -> list[str]:
    """The words that the table knows to be of none of these scopes."""
    return [word for word in words if (entry := setting_of_word(config, word)) and entry.scope not in scopes]


def _base(config: DictConfig) -> BasePlan:
    scopes = {Scope.BASE, Scope.MODULE} if config.joint else {Scope.BASE}
    settings = values_of(config, scopes)
    if not config.joint:
        settings = {key: value for key, value in settings.items() if not key.startswith("schedule.occlusion.")}
    key = base_key(settings)
    return BasePlan(
        folder=RunFolder(_data_folder(config) / f"base_{key}"),
        key=key,
        settings=settings,
        seed=config.seed,
        backbone=Blueprint(config.backbone),
        share=config.share,
        thing=Blueprint(config.thing),
        stuff=Blueprint(config.stuff),
        exchange=Blueprint(config.exchange),
        loss_weights={str(name): float(weight) for name, weight in config.schedule.loss_weights.items()},
        channels_last=config.channels_last,
        compile=config.compile,
        joint=config.joint,
        schedule=_schedule(config),
    )


def _order(config: DictConfig, base: BasePlan, points: Sequence[Values]) -> OrderPlan:
    name, stage = str(config.choices.occlusion), stage_of_order(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    settings = {key: v for key, v in values_of(config, {Scope.MODULE}).items() if key.startswith("occlusion.")}
    schedule: Any = OmegaConf.to_container(stage, resolve=True)
    key = module_key(base.key, settings, schedule)
    chosen = [word for word in config.command if not word.lstrip("+~").startswith("occlusion=")]
    command = _without(config, [*chosen, f"occlusion={name}"], {*_EVALUATION, Scope.MACHINE, Scope.COMMAND})
    place = [f"runs_dir={config.runs_dir}"] if config.runs_dir != "runs" else []
    return OrderPlan(
        name=name,
        blueprint=Blueprint(config.occlusion),
        seed=config.seed,
        schedule=_schedule(config),
        folder=base.folder if base.joint else RunFolder(base.folder.path / f"{name}_{key}"),
        config=OmegaConf.to_yaml(config, resolve=True),
        hyperparameters=plain,
        command=f"python -m panoptic_occ.train {shlex.join([*command, *place])}",
        points=points,
    )


def _schedule(config: DictConfig) -> Blueprint[Any]:
    """Both stages, the second as the order of ``config`` trains; ConfigError for what a stage cannot be."""
    node = _part(config.schedule, ["_target_", "reference_batch", "base", "occlusion"])
    node.occlusion = stage_of_order(config)
    blueprint: Blueprint[Any] = Blueprint(node)
    blueprint.build()
    return blueprint


def _evaluation(config: DictConfig, words: Sequence[str], base: BasePlan, trained: DictConfig | None) -> EvaluationPlan:
    grid, policies = Grid.of(config), []
    for title, changes in (config.policies or {"": {}}).items():
        merged: Any = OmegaConf.merge(config.fusion, changes)
        merged._set_parent(config)
        merged._set_key("fusion")
        for point in grid.points("fusion"):
            policy = Blueprint[FusionPolicy](merged).changed(inside("fusion", point)).build()
            policies.append(PolicyPlan(str(title), point, policy))
    own_data = trained is None or _source(config) == _source(trained)
    detections = {**values_of(config, {Scope.DETECTIONS}), **_source(config)}
    detections["data.max_eval_images"] = config.data.get("max_eval_images")
    # the place of the run's own data may change, and other data may have the same names
    placed = {key: value for key, value in detections.items() if not (own_data and key.endswith(".root"))}
    settings = {"base": base.key, **placed}
    told = [word for word in words if _is_told(config, word, of_run=trained is not None)]
    stores = [word for word in words if word.startswith("run=") or _is_of_result(setting_of_word(config, word))]
    return EvaluationPlan(
        settings=comparable(config),
        name=name_of_words(told) or "default",
        policies=policies,
        grid=grid,
        oracle=frozenset(config.oracle),
        details=tuple(config.data.object_sizes) if config.details else None,
        timing=config.timing,
        average_precision=config.average_precision,
        score_thr=float(config.thing.get("score_thr", 0.0)),
        tta=Blueprint(config.tta),
        predictions=base.folder.path / f"predictions_{predictions_key(settings)}",
        detection_settings=settings,
        advice=f"to store them, run: python -m panoptic_occ.evaluate {shlex.join([*stores, 'save_predictions=true'])}",
        saved=config.saved,
        save_maps=config.save_maps,
        save_predictions=config.save_predictions,
        save_conf_thr=float(config.save_conf_thr),
        erase_radius=int(config.fusion.get("erase_radius", config.data.erase_radius)),
        own_data=own_data,
    )


def _is_told(config: DictConfig, word: str, *, of_run: bool) -> bool:
    """Whether the name of an evaluation tells a word.  With ``run=``, a digest stands for words of data, and a method
    is another one than the run's, which its folder does not tell."""
    if of_run and word.startswith("method="):
        return True
    return in_names(config, word) and not (of_run and word.lstrip("+").startswith("data.source."))


def _is_of_result(entry: Setting | None) -> bool:
    return entry is not None and entry.from_run


def comparable(config: DictConfig) -> dict[str, Any]:
    """Everything that changes a result, by dotted key, as far as it is set; ``compare`` only adds rows to it."""
    values = values_of(config, COMPUTING)
    return {key: value for key, value in values.items() if value is not None and key != "compare"}


def _source(config: DictConfig) -> dict[str, Any]:
    """What says which data is read, by dotted key."""
    values = values_of(config, {Scope.BASE, Scope.INPUT})
    return {key: value for key, value in values.items() if key.startswith("data.source.")}


def _data(config: DictConfig) -> DictConfig:
    """What of the data group the data module takes; other groups read the rest."""
    labels = {key.split(".")[1] for key in SETTINGS if key.startswith("data.")}
    return _part(config.data, [str(key) for key in config.data if key not in labels])


def _part(config: DictConfig, keys: list[str]) -> DictConfig:
    """Some keys of a group, with its name in errors."""
    part: DictConfig = OmegaConf.masked_copy(config, keys)
    part._set_parent(config._get_parent())
    part._set_key(config._key())
    return part
