"""The run folder: where a run lives, what it remembers, and whether it is finished.

A folder is a function of the command, so that the same command finds its own work again:

    runs/<data>/base_<key>/                   one base, shared by all methods; <key> hashes all that it depends on
        base.safetensors  config.yaml  environment.json  categories.json  logs/   (checkpoints/ while training)
        predictions_<key>/                    stored predictions of a split, see ``predictions``
        <occlusion>_<key>/                    one occlusion module on that base, shared by all runs that use it
            occlusion.safetensors  config.yaml  environment.json  categories.json  logs/   (checkpoints/ likewise)
    runs/<data>/<method>_<backbone>_s<seed>/  one run; other overrides are appended to the name
        config.yaml  environment.json  categories.json
        metrics.json  metrics.csv  pq.json  pq.txt  pictures.png  made_from.json
        evaluations/<name>/                   the run evaluated again, see ``reuse``
"""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.common.files import check_regular, read_json, write_json, write_text
from panoptic_occ.common.locking import work_lock
from panoptic_occ.runs.environment import environment
from panoptic_occ.structures.categories import Categories

log = logging.getLogger(__name__)

RESULTS = ("metrics.*", "pq.*", "breakdown.*", "pictures.png", "grid.png", "made_from.json")
PARTS_OF_CHECKPOINT = {
    "state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step", "epoch",
    "pytorch-lightning_version",
}  # fmt: skip
DESCRIPTION = ("config.yaml", "environment.json", "categories.json")
FOLDERS = (".before", ".gone", "panoptic", "overlays", "checkpoints", "logs", "tensorboard", "wandb")
"""What is made, moved or removed inside the folder of a base, an occlusion module or a run."""
TRACKED = ("logs", "tensorboard")
"""Of these, what loggers fill by names that they make up themselves."""


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
    def categories(self) -> Path:
        """The categories that it was trained with."""
        return self.path / "categories.json"

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

    def describe(self, config: str, categories: Categories) -> None:
        """Writes the configuration (YAML) and the environment that made the run, and the categories it knows."""
        write_text(self.config, config)
        write_json(self.path / "environment.json", environment(), indent=2)
        write_json(self.categories, categories.to_json(), indent=2)

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


@contextmanager
def writing_in(folder: Path, data_folder: Path, what: str, **options: Any) -> Iterator[None]:
    """The lock of a folder that is written (``work_lock``), below that of its data set.

    A folder from elsewhere may hold links, through which files of the user would be moved or replaced: ConfigError
    names one.  Links to ``data_folder`` are the user's own, who may keep runs on another disk.
    """
    _check_unlinked(folder, data_folder)
    with work_lock(folder, what, **options):
        _check_unlinked(folder, data_folder)  # another run may have been at work meanwhile
        yield


def _check_unlinked(folder: Path, data_folder: Path) -> None:
    folder, data_folder = folder.absolute(), data_folder.absolute()  # links stay as they are
    parts = folder.relative_to(data_folder).parts
    places = [data_folder.joinpath(*parts[:number]) for number in range(1, len(parts) + 1)]
    places += [folder / name for name in FOLDERS]
    link = next((path for path in places if path.is_symlink()), None)
    if link is None:
        files = (path for name in TRACKED for path in (folder / name).rglob("*"))
        link = next((path for path in files if path.is_symlink()), None)
    if link is not None:
        raise ConfigError(
            f"{link}: is a link, and nothing is written through links inside a run folder; put what it leads to in its "
            "place, or remove it"
        )


def _bring_back(aside: Path) -> None:
    if aside.is_dir():
        for file in aside.iterdir():
            os.replace(file, aside.parent / file.name)
        aside.rmdir()


def latest_checkpoint(folder: RunFolder, origin: Mapping[str, str]) -> Path | None:
    """The newest undamaged checkpoint of the stage in progress; a damaged one is named and the one before it used.

    Without any the stage begins anew: it ends with the same weights, only later.  ``origin``: what the stage learns
    from, the fingerprint of the ``data`` and the digest of the ``base``.  ConfigError when it began on other data; what
    began on another base is removed.
    """
    note = folder.checkpoints / "origin.json"
    if folder.checkpoints.exists():
        before = read_json(note) if note.exists() else {}
        if not isinstance(before, dict) or not all(isinstance(value, str) for value in before.values()):
            raise DataError(
                f"{note}: does not say what the stage began on; remove {folder.checkpoints}, and it begins anew"
            )
        if before.get("data") not in (None, "", origin["data"]):  # none was noted where no content was compared
            raise ConfigError(
                f"{folder.checkpoints}: this stage began on other data (fingerprint {before['data'][:12]}, those of "
                f"data.root have {origin['data'][:12]}). Give this data set a name of its own (data.name=...), or "
                "remove the folder to begin anew"
            )
        if before.get("base") != origin.get("base"):
            log.warning("%s: removed, the stage began on a base that was trained again since", folder.checkpoints)
            shutil.rmtree(folder.checkpoints)
    write_json(note, origin)
    paths = sorted(folder.checkpoints.glob("*.ckpt"), reverse=True)
    for path in paths:
        if (damage := _damage(path)) is None:
            return path
        log.warning("%s: damaged (%s), using the checkpoint before it", path, damage)
    if paths:
        log.warning("%s: no checkpoint before that one, the stage begins anew", folder.checkpoints)
    return None


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: every byte is checked, unlike when it is loaded, then what it is."""
    import torch

    try:
        check_regular(checkpoint)
        with zipfile.ZipFile(checkpoint) as archive:
            part = archive.testzip()
        if part is not None:
            return f"wrong checksum of {part}"
        # of the tensors only the places are read; nothing in it is run
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zipfile and torch raise what they meet in a file of others
        return (str(error) or type(error).__name__).splitlines()[0]
    missing = PARTS_OF_CHECKPOINT - content.keys() if isinstance(content, dict) else PARTS_OF_CHECKPOINT
    return f"lacks {', '.join(sorted(missing))}" if missing else None


def finished(folder: RunFolder) -> dict[str, Any] | None:
    """The results of a finished run, or None; DataError when the file is damaged."""
    if not folder.metrics.exists():
        return None
    results = read_json(folder.metrics)
    keys = {"method", "images", "relations"}
    if not isinstance(results, dict) or not keys <= results.keys() or not _are_rows(results["relations"]):
        raise DataError(f"{folder.metrics}: these are not the results of a run; remove the file, or add force=true")
    return results


def _are_rows(relations: Any) -> bool:
    """Whether these are numbers, or None, by name, by order."""
    rows = relations.values() if isinstance(relations, dict) and relations else [None]
    return all(
        isinstance(row, dict) and all(value is None or type(value) in (int, float) for value in row.values())
        for row in rows
    )
