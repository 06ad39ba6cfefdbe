"""Whether an evaluation has been made before, with the same settings and from files of the same content.

    <run>/made_from.json, <run>/evaluations/<name>/made_from.json

It is written last, and results that it does not go with are made again.

Code is no part of it, as everywhere: ``force=true`` repeats an evaluation after a change of the code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_occ.common.distributed import is_main_process
from panoptic_occ.common.errors import ConfigError, DataError, PanopticOccError
from panoptic_occ.common.files import check_regular, digest, read_json, write_text
from panoptic_occ.runs.archive import Archive
from panoptic_occ.runs.build import comparable_of, compared_of, training_of
from panoptic_occ.runs.folders import RunFolder, finished
from panoptic_occ.runs.keys import differences
from panoptic_occ.runs.plan import RunPlan
from panoptic_occ.runs.predictions import PredictionFiles
from panoptic_occ.runs.weights import saved_digest

MADE_FROM = "made_from.json"


@dataclass(frozen=True)
class EvaluationFolder:
    """A folder for the results of an evaluation; ``source`` says what they are to be made from."""

    path: Path
    source: Callable[[], str]

    def results(self) -> dict[str, Any] | None:
        """The results, if they are complete and were made from ``source``; DataError when this cannot be read."""
        file = self.path / MADE_FROM
        if not file.exists():
            return None
        try:
            check_regular(file)
            content = file.read_bytes()
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read ({error}); move it away, and the evaluation is made anew"
            ) from None
        if content != self.source().encode():
            return None
        return finished(RunFolder(self.path))

    @contextmanager
    def filled(self, *, stores: bool) -> Iterator[None]:
        """The results in the folder are made anew, by all processes; ``stores``: predictions too, which they then go
        with."""
        if not is_main_process():
            yield
            return
        source = self.source()
        with RunFolder(self.path).redone():
            yield
            write_text(self.path / MADE_FROM, self.source() if stores else source)


def made_from(plan: RunPlan, data: Mapping[str, str]) -> str:
    """All that the results of an evaluation depend on, as a text to be compared as a whole; ``data``: fingerprints."""
    evaluation = plan.evaluation
    about = {
        "settings": evaluation.settings,
        "orders": {order.name: order.blueprint.settings for order in plan.orders},
        "writes": {
            "maps": evaluation.save_maps,
            "predictions": evaluation.save_conf_thr if evaluation.save_predictions else None,
        },
        "data": data,
        "files": {str(file.relative_to(plan.runs_dir)): _content(file) for file in _files(plan) if file.exists()},
    }
    return json.dumps(about, indent=1, default=str)


def results_match(plan: RunPlan, data: Mapping[str, str]) -> bool:
    """Whether the results in the folder of a run are those that ``plan`` asks for: the same settings, at least its
    orders, and files of the same content; ``data``: fingerprints of the data as they are now."""
    config, file = plan.folder.config, plan.folder.path / MADE_FROM
    orders = {order.name for order in plan.orders}
    if comparable_of(config) != plan.evaluation.settings or not orders <= set(compared_of(config)):
        return False
    try:
        before = read_json(file)
    except DataError:  # missing or damaged: nothing says what the results were made from
        return False
    now = json.loads(made_from(plan, data))
    files = [str(path.relative_to(plan.runs_dir)) for path in _files(plan)]
    return _agree(before, now, "data", data) and _agree(before, now, "files", files)


def check_same_run(plan: RunPlan) -> None:
    """Refuses a folder with the results of weights that were trained with other settings, naming them."""
    folder = plan.folder
    if not (folder.config.exists() and folder.metrics.exists()):
        return
    if different := differences(training_of(folder.config), plan.training):
        raise ConfigError(
            f"{folder.path} holds a run with other settings ({different}). "
            "Give this run another run_name, or replace the old one with force=true"
        )


def _agree(before: Any, now: Mapping[str, Any], part: str, keys: Iterable[str]) -> bool:
    earlier = before.get(part) if isinstance(before, dict) else None
    return isinstance(earlier, dict) and all(earlier.get(key) == now[part].get(key) for key in keys)


def _files(plan: RunPlan) -> Iterator[Path]:
    """The files that an evaluation reads or stores, as far as they exist: weights, and stored predictions."""
    stored = PredictionFiles(plan.evaluation.predictions)
    archives = plan.evaluation.saved or plan.evaluation.save_predictions
    base = plan.base.folder.weights("base")
    if not plan.evaluation.saved or _replaced(base, stored.base):
        yield base
    if archives:
        yield from (stored.base, stored.truth)
    for order in plan.orders:
        yield order.folder.weights("occlusion")
        if archives:
            yield stored.head_outputs(order.folder.path.name)


def _replaced(base: Path, stored: Path) -> bool:
    """Whether stored predictions are of other weights than those in the folder of the base, if there are any."""
    try:
        return base.exists() and stored.exists() and Archive(stored, "").header.get("base") != saved_digest(base)
    except PanopticOccError:  # damaged: its reader says more
        return True


def _content(file: Path) -> str:
    """A hash of a file; of an archive, only of its header, which has a hash of all tensors."""
    if file.suffix != ".zip":
        return digest(file)
    try:
        header = json.dumps(Archive(file, "").header)
    except PanopticOccError as error:
        return str(error)
    return hashlib.blake2b(header.encode(), digest_size=8).hexdigest()
