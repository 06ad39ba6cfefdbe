"""Whether an evaluation has been made before, with the same settings and from files of the same content.

    <run>/evaluations/<name>/made_from.json     written last; results that it does not go with are made again

Code is no part of it, as everywhere: ``force=true`` repeats an evaluation after a change of the code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from panoptic_occ.common.distributed import is_main_process
from panoptic_occ.common.errors import PanopticOccError
from panoptic_occ.common.files import digest, write_text
from panoptic_occ.runs.archive import Archive
from panoptic_occ.runs.folders import (
    NOT_IN_NAME,
    RunFolder,
    base_folder,
    finished,
    occlusion_folder,
    predictions_folder,
    read_config,
)
from panoptic_occ.runs.keys import flat
from panoptic_occ.runs.predictions import PredictionFiles

MADE_FROM = "made_from.json"
# Parts of a configuration that say how it came about; they change no result.
NOT_COMPARED = ("choices", "command", "table", "backbones", "method", "backbone_name")


@dataclass(frozen=True)
class EvaluationFolder:
    """A folder for the results of an evaluation; ``source`` says what they are to be made from."""

    path: Path
    source: Callable[[], str]

    def results(self) -> dict[str, Any] | None:
        """The results, if they are complete and were made from ``source``."""
        file = self.path / MADE_FROM
        if not file.exists() or file.read_text(encoding="utf-8") != self.source():
            return None
        return finished(RunFolder(self.path))

    @contextmanager
    def filled(self, *, stores: bool) -> Iterator[None]:
        """The results in the folder are made anew, by all processes; ``stores``: predictions too, which they then go
        with."""
        source = self.source()
        if not is_main_process():
            yield
            return
        with RunFolder(self.path).redone():
            yield
            write_text(self.path / MADE_FROM, self.source() if stores else source)


def made_from(cfg: DictConfig, orders: Mapping[str, DictConfig], annotations: str) -> str:
    """All that the results of an evaluation depend on, as a text to be compared as a whole.

    ``orders``: the configuration of every compared order by name.  ``annotations``: fingerprint of their files.
    """
    about = {
        "settings": relevant(cfg),
        "orders": {name: OmegaConf.to_container(own.occlusion) for name, own in orders.items()},
        "writes": {"maps": cfg.save_maps, "predictions": cfg.save_conf_thr if cfg.save_predictions else None},
        "annotations": annotations,
        "files": {str(file.relative_to(cfg.runs_dir)): _content(file) for file in _files(cfg, orders) if file.exists()},
    }
    return json.dumps(about, indent=1, default=str)


def relevant(config: DictConfig) -> dict[str, Any]:
    """The settings of a configuration by dotted key, without those that never change a result or are not set."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    settings = flat({key: value for key, value in plain.items() if key not in NOT_COMPARED})
    return {key: value for key, value in settings.items() if value is not None and not NOT_IN_NAME.match(key)}


def same_settings(file: Path, cfg: DictConfig) -> bool:
    """Whether a run's saved configuration computes what ``cfg`` does."""
    return relevant(read_config(file)) == relevant(cfg)


def answers(file: Path, cfg: DictConfig) -> bool:
    """Whether the results of the run that saved its configuration in ``file`` are those that ``cfg`` asks for: the same
    settings on data in the same place, and at least its orders."""
    before = read_config(file)
    place = "data.source.root"
    return (
        relevant(before) == relevant(cfg)
        and set(cfg.compare) <= set(before.compare)
        and OmegaConf.select(before, place) == OmegaConf.select(cfg, place)
    )


def _files(cfg: DictConfig, orders: Mapping[str, DictConfig]) -> Iterator[Path]:
    """The files that an evaluation reads or stores, as far as they exist: weights, and stored predictions."""
    stored = PredictionFiles(predictions_folder(cfg))
    archives = cfg.saved or cfg.save_predictions
    if not cfg.saved:
        yield base_folder(cfg).weights("base")
    if archives:
        yield from (stored.base, stored.truth)
    for own in orders.values():
        stage = occlusion_folder(own)
        yield stage.weights("occlusion")
        if archives:
            yield stored.answers(stage.path.name)


def _content(file: Path) -> str:
    """A hash of a file; of an archive, only of its header, which has a hash of all tensors."""
    if file.suffix != ".zip":
        return digest(file)
    try:
        header = json.dumps(Archive(file, "").header)
    except PanopticOccError as error:
        return str(error)
    return hashlib.blake2b(header.encode(), digest_size=8).hexdigest()
