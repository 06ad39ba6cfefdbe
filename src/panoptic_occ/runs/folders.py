"""The run folder: where a run lives, what it remembers, and whether it is finished.

A folder is a function of the command, so that the same command finds its own work again:

    runs/<data>/base_<key>/                   one base, shared by all methods; <key> hashes all that it depends on
        base.safetensors  config.yaml  environment.json  categories.json  logs/   (checkpoints/ while training)
        predictions_<key>/                    stored predictions of the validation split, see ``stored``
        <occlusion>_<key>/                    one occlusion module on that base, shared by all runs that use it
            occlusion.safetensors  config.yaml  environment.json  categories.json  logs/   (checkpoints/ likewise)
    runs/<data>/<method>_<backbone>_s<seed>/  one run; other overrides are appended to the name
        config.yaml  environment.json  categories.json
        metrics.json  metrics.csv  pq.json  pq.txt  pictures.png
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from panoptic_occ.common.errors import CheckpointError, ConfigError, DataError
from panoptic_occ.common.files import read_json, write_json, write_text
from panoptic_occ.config.compose import compose, users_conf
from panoptic_occ.config.trust import check_targets
from panoptic_occ.runs.environment import environment
from panoptic_occ.runs.keys import BASE_KEYS, STAGE_KEYS, base_key, changes, prediction_key, stage_key
from panoptic_occ.structures.categories import Categories

log = logging.getLogger(__name__)

# What a command does beside computing; a later command on the same run does not inherit it.
OF_ONE_COMMAND = ("logger", "force", "trusted", "save_maps", "save_predictions", "saved", "grid", "check", "debug")

RESULTS = ("metrics.*", "pq.*", "breakdown.*", "pictures.png", "grid.png", "made_from.json")
DESCRIPTION = ("config.yaml", "environment.json", "categories.json")

OF_EVALUATION = ("fusion", "tta", "policies", "grid", "oracle", "details", "timing", "average_precision")

# Overrides that never change what is computed, or that the folder's name holds already.
NOT_IN_NAME = re.compile(
    r"^(method|data|backbone|seed|runs_dir|run_name|force|processes|save_maps|save_predictions|save_conf_thr|saved"
    r"|compare|sweep|debug|trusted|run|input|output"
    r"|data\.(num_workers|eval_batch_size|source\.(root|cache_dir|processes)|root)|(logger|validate)(\..*)?|hydra.*"
    r"|trainer(\.(?!precision$|gradient_clip|limit_train_batches$|sync_batchnorm$).*)?)$"
)


@dataclass(frozen=True)
class RunFolder:
    """Paths inside the folder of a base or of a run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the stage in progress."""
        return self.path / "checkpoints"

    @property
    def config(self) -> Path:
        """The composed configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """The results; the file that makes a run finished."""
        return self.path / "metrics.json"

    def weights(self, stage: str) -> Path:
        """Final weights of a stage: ``base`` or ``occlusion``."""
        return self.path / f"{stage}.safetensors"

    def progress(self) -> str:
        """How far the stage in progress has come."""
        names = sorted(path.stem for path in self.checkpoints.glob("[0-9]*.ckpt"))
        return f"which has come to step {int(names[-1])}" if names else ""

    def describe(self, cfg: DictConfig, categories: Categories) -> None:
        """Writes the configuration and the environment that made the run, and the categories it knows."""
        write_text(self.config, OmegaConf.to_yaml(cfg, resolve=True))
        write_json(self.path / "environment.json", environment(), indent=2)
        write_json(self.path / "categories.json", categories.to_json(), indent=2)

    @contextmanager
    def redone(self) -> Iterator[None]:
        """Lays earlier results aside while the block makes them anew; an exception brings them back.

        They are also brought back when the next call follows a killed one.  Nothing else in the folder is touched.
        """
        aside, gone = self.path / ".before", self.path / ".gone"
        _bring_back(aside)
        shutil.rmtree(gone, ignore_errors=True)  # of one that was killed in its last moment
        aside.mkdir(parents=True)
        for pattern in (*RESULTS, *DESCRIPTION):
            for file in self.path.glob(pattern):
                file.rename(aside / file.name)
        try:
            yield
        except BaseException:
            _bring_back(aside)
            raise
        aside.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _bring_back(aside: Path) -> None:
    if aside.is_dir():
        for file in aside.iterdir():
            os.replace(file, aside.parent / file.name)
        aside.rmdir()


def base_folder(cfg: DictConfig) -> RunFolder:
    """The folder of the base that ``cfg`` needs."""
    return RunFolder(Path(cfg.runs_dir) / str(cfg.data.name) / f"base_{base_key(cfg)}")


def occlusion_folder(cfg: DictConfig) -> RunFolder:
    """The folder of the trained occlusion module that ``cfg`` needs, below its base, or with it if trained jointly."""
    if cfg.joint:
        return base_folder(cfg)
    return RunFolder(base_folder(cfg).path / f"{cfg.choices.occlusion}_{stage_key(cfg)}")


def run_folder(cfg: DictConfig, overrides: Sequence[str] = ()) -> RunFolder:
    """The folder of the run that ``cfg`` describes; ``overrides`` are the command line's ``key=value`` words."""
    name = cfg.run_name
    if name is None:
        parts = (cfg.method.name, cfg.backbone_name, f"s{cfg.seed}", overrides_name(overrides))
        name = "_".join(part for part in parts if part)
    elif not str(name).strip(". ") or re.search(r"[/\\]", str(name)) or str(name).startswith("base_"):
        raise ConfigError(
            f"run_name={str(name)!r}: needs a name for one folder below {cfg.runs_dir}/{cfg.data.name}, without / "
            "and not that of a base (base_...)"
        )
    return RunFolder(Path(cfg.runs_dir) / str(cfg.data.name) / str(name))


def training_words(cfg: DictConfig) -> list[str]:
    """The words of the command that say what is trained: without those of the evaluation and of one command."""
    left_out = (*OF_ONE_COMMAND, *OF_EVALUATION, "run", "runs_dir", "compare", "input", "output")
    kept = [word for word in cfg.command if re.split("[.=]", word.lstrip("+~"), maxsplit=1)[0] not in left_out]
    return [*kept, *([f"runs_dir={cfg.runs_dir}"] if cfg.runs_dir != "runs" else [])]


def overrides_name(overrides: Iterable[str]) -> str:
    """The words of a command line that change what is computed, as part of a file name; empty when there are none."""
    pairs = (word.lstrip("+~").split("=", 1) for word in overrides if "=" in word)
    kept = sorted(
        value if key == "experiment" else f"{key}-{value}" for key, value in pairs if not NOT_IN_NAME.match(key)
    )
    text = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", item).strip("-") for item in kept)
    return text if len(text) <= 100 else hashlib.sha256(text.encode()).hexdigest()[:12]


def predictions_folder(cfg: DictConfig) -> Path:
    """The folder of the stored predictions that ``cfg`` needs, below their base."""
    return base_folder(cfg).path / f"predictions_{prediction_key(cfg)}"


def check_same_run(folder: RunFolder, cfg: DictConfig) -> None:
    """Refuses a folder with the results of weights that were trained with other settings, naming them."""
    if not (folder.config.exists() and folder.metrics.exists()):
        return
    if different := changes(read_config(folder.config), cfg, (*BASE_KEYS, *STAGE_KEYS)):
        raise ConfigError(
            f"{folder.path} holds a run with other settings ({different}). "
            "Give this run another run_name, or replace the old one with force=true"
        )


def latest_checkpoint(folder: RunFolder) -> Path | None:
    """The newest undamaged checkpoint of the stage in progress; a damaged one is named and the one before it used.

    Without any the stage begins anew: it ends with the same weights, only later.
    """
    paths = sorted(folder.checkpoints.glob("*.ckpt"), reverse=True)
    for path in paths:
        if (damage := _damage(path)) is None:
            return path
        log.warning("%s: damaged (%s), using the checkpoint before it", path, damage)
    if paths:
        log.warning("%s: no checkpoint before that one, the stage begins anew", folder.checkpoints)
    return None


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a file of torch, which is a ZIP archive; every byte is checked, unlike when it is loaded."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            part = archive.testzip()
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return str(error)
    return None if part is None else f"wrong checksum of {part}"


def finished(folder: RunFolder) -> dict[str, Any] | None:
    """The results of a finished run, or None; DataError when the file is damaged."""
    if not folder.metrics.exists():
        return None
    results = read_json(folder.metrics)
    if not isinstance(results, dict) or not {"method", "images", "relations"} <= results.keys():
        raise DataError(f"{folder.metrics}: these are not the results of a run; remove the file, or add force=true")
    return results


def read_config(file: Path) -> DictConfig:
    """The configuration that a run has saved; CheckpointError when the file is damaged."""
    try:
        config = OmegaConf.load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        problem = str(error).splitlines()[0]
    else:
        if isinstance(config, DictConfig) and {"choices", "command", "runs_dir"} <= config.keys():
            return config
        problem = "it lacks what train writes"
    raise CheckpointError(f"{file}: damaged ({problem}); the command that made the run writes it again with force=true")


def load_run_config(path: Path, asked: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a run folder with the command line's overrides on top.

    ``asked``: what the command line alone composes to; packages that it trusts may be named in the file.
    CheckpointError when there is no run; ConfigError when an override would change what was trained, or when the file
    names a class that a run folder may not build.
    """
    file = path / "config.yaml"
    if not file.exists():
        found = sorted(str(p.parent) for p in path.glob("**/config.yaml")) if path.is_dir() else []
        raise CheckpointError(
            f"{path}: not a run folder (no config.yaml in it); run= takes the folder that train printed at its end; "
            f"runs below it: {', '.join(found[:5]) or '(none)'}"
        )
    before = read_config(file)
    trusted = asked.trusted  # the file's own word for it does not count
    check_targets(before, file, trusted)
    # a group chosen now reads what the run chose before (its data, its schedule), not the defaults
    words = [word for word in before.command if "_target_" not in word]
    config = before.copy()
    config.run = str(path)
    config.runs_dir = _home(path, before)
    for key in OF_ONE_COMMAND:
        config[key] = asked[key]
    asked = compose([*words, *overrides], users_conf())
    check_targets(asked, f"{file}: its command", trusted)
    for key in dict.fromkeys(word.lstrip("+~").split("=", 1)[0] for word in overrides):
        if not key.startswith("hydra"):
            OmegaConf.update(config, key, OmegaConf.select(asked, key), merge=False, force_add=True)
            if key in asked.choices:
                config.choices[key] = asked.choices[key]
    config.command = [*config.command, *overrides]
    if base_key(config) != base_key(before):
        raise ConfigError(f"{path}: its base was trained with other settings: {changes(before, config, BASE_KEYS)}")
    return config


def _home(path: Path, config: DictConfig) -> str:
    """The folder of all runs: where this one lies now, wherever it was when it trained, if its base lies there too."""
    here, before = path.absolute().parents[1], Path(config.runs_dir)
    base = base_folder(config).path.relative_to(before)
    return str(here if here != before.absolute() and (here / base).exists() else before)
