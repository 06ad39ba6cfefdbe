"""Stored predictions of a run: where they belong, whether they fit, and their evaluation without the network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from panoptic_occ.common.errors import CheckpointError, ConfigError
from panoptic_occ.common.parallel import available_cores, ordered_map
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.evaluation.evaluator import FROM_NETWORK, Evaluation, Recording
from panoptic_occ.fusion.policy import Dilation
from panoptic_occ.runs.archive import Archive
from panoptic_occ.runs.keys import predictions_key
from panoptic_occ.runs.loading import base_digest
from panoptic_occ.runs.plan import RunPlan
from panoptic_occ.runs.predictions import PredictionFiles, PredictionWriter, StoredPredictions
from panoptic_occ.runs.weights import saved_digest

FUSIONS_A_BLOCK = 256  # about a second of work
FUSIONS_A_WORKER = 1024  # fewer are done sooner than another worker has started


def recording_of(plan: RunPlan) -> Recording | None:
    """What an evaluation with the network records: to store it, or for the points of a grid to share it."""
    if plan.evaluation.save_predictions:
        radius, policy = plan.evaluation.erase_radius, plan.policy
        radii = sorted({0, radius // 2, radius, 2 * radius})
        dilations = tuple(Dilation(r, policy.erase_shape, policy.erase_stride) for r in radii)
        return Recording(plan.evaluation.save_conf_thr, dilations)
    return Recording() if plan.evaluation.grid.values else None


def prediction_writer(
    plan: RunPlan, evaluation: Evaluation, data: PanopticDataModule, channels: int
) -> PredictionWriter:
    """Stores what ``evaluation`` sees."""
    about = {
        "key": predictions_key(plan.evaluation.detection_settings),
        "settings": plan.evaluation.detection_settings,
        "data": data.eval_data.fingerprint,
        "base": base_digest(plan.base),
        "conf_thr": evaluation.conf_thr,
        "in_channels": channels,
    }
    stages = {
        order.name: (order.folder.path.name, {"weights": saved_digest(order.folder.weights("occlusion"))})
        for order in plan.orders
        if order.name in evaluation.networks
    }
    return PredictionWriter(PredictionFiles(plan.evaluation.predictions), about, stages)


def _check_orders(evaluation: Evaluation, advice: str) -> None:
    """ConfigError names an order that cannot do without the network."""
    for entry in evaluation.entries:
        reads = entry.model.requires & {*FROM_NETWORK, "semantic_logits"}
        if reads and (entry.order not in evaluation.networks or "semantic_logits" in reads):
            raise ConfigError(
                f"occlusion={entry.order} reads {', '.join(sorted(reads))}, which saved predictions do not hold, "
                f"and it has no outputs to keep instead (head_outputs and relate in occlusion/base.py); {advice}, or "
                f"leave {entry.order} out of method, occlusion and compare"
            )


def stored_channels(plan: RunPlan) -> int:
    """Width of the features of the base that made the stored predictions; CheckpointError when there are none."""
    path, advice = PredictionFiles(plan.evaluation.predictions).base, plan.evaluation.advice
    if not path.exists():  # perhaps the base has others, and what differs was not meant to
        for other in sorted(path.parent.parent.glob(f"predictions_*/{path.name}")):
            _check_settings(Archive(other, advice), plan.evaluation.detection_settings)
    return int(Archive(path, advice).header["in_channels"])


def open_predictions(plan: RunPlan, evaluation: Evaluation, data: PanopticDataModule) -> StoredPredictions:
    """The stored predictions that ``evaluation`` needs; ConfigError or CheckpointError says what does not fit."""
    _check_orders(evaluation, "set saved=false")
    advice = plan.evaluation.advice
    orders = {order.name: order.folder for order in plan.orders if order.name in evaluation.networks}
    stages = {name: folder.path.name for name, folder in orders.items()}
    stored = StoredPredictions(PredictionFiles(plan.evaluation.predictions), stages, advice)
    _check_settings(stored.base, plan.evaluation.detection_settings)
    header, now = stored.base.header, base_digest(plan.base)
    if header.get("data") != data.eval_data.fingerprint:
        raise CheckpointError(
            f"{stored.base.path}: was stored for other images or annotations than those of "
            f"{data.eval_data.layout.panoptic_json} are now; {advice}"
        )
    if now not in (None, header.get("base")):
        raise CheckpointError(
            f"{stored.base.path}: holds predictions of other weights than those in {plan.base.folder.weights('base')}, "
            f"which was trained again since; {advice}"
        )
    for name, archive in stored.head_outputs.items():
        weights = orders[name].weights("occlusion")
        if archive.header["weights"] != saved_digest(weights):
            raise CheckpointError(
                f"{archive.path}: holds head outputs of occlusion={name} from before it was trained again; {advice}"
            )
    if evaluation.conf_thr < stored.base.header["conf_thr"]:
        setting, instead = f"fusion.conf_thr={evaluation.conf_thr:g}", "raise the threshold"
        if evaluation.conf_thr == evaluation.score_thr:
            setting = f"average_precision=true ranks all detections of score {evaluation.conf_thr:g} and more"
            instead = "set average_precision=false"
        raise ConfigError(
            f"{setting}: {stored.base.path} holds detections of score {stored.base.header['conf_thr']:g} and more; "
            f"{instead}, or, {advice} save_conf_thr={evaluation.conf_thr:g}"
        )
    return stored


def _check_settings(archive: Archive, settings: Mapping[str, Any]) -> None:
    """CheckpointError names what of ``settings`` the detections in ``archive`` were not made with."""
    before: Mapping[str, Any] = archive.header["settings"]
    differing = [key for key in sorted(before.keys() | settings.keys()) if before.get(key) != settings.get(key)]
    if differing:
        changes = "; ".join(f"{key}: {before.get(key)} -> {settings.get(key)}" for key in differing[:5])
        raise CheckpointError(f"{archive.path}: was stored with other settings ({changes}); {archive.advice}")


@dataclass(frozen=True, eq=False)
class SavedPass:
    """The work of one process: evaluates blocks of images and hands back the counts of every metric; ``pixels``: the
    data set, if an order looks at the images themselves."""

    evaluation: Evaluation
    predictions: StoredPredictions
    places: Mapping[int, int]
    pixels: CocoPanoptic | None

    @torch.inference_mode()
    def __call__(self, image_ids: Sequence[int]) -> list[dict[str, list[Tensor] | Tensor]]:
        """The states of all metrics over these images alone."""
        for metric in self.evaluation.metrics:
            metric.reset()
        for image_id in image_ids:
            stored = self.predictions
            sample = stored.sample(image_id) if self.pixels is None else self.pixels[self.places[image_id]]
            self.evaluation.update(sample, stored.output(image_id))
        return [metric.metric_state for metric in self.evaluation.metrics]


def evaluate_stored(
    evaluation: Evaluation, predictions: StoredPredictions, data: PanopticDataModule, processes: int | None
) -> None:
    """Shows ``evaluation`` every stored image; its results do not depend on the number of processes."""
    image_ids = data.eval_data.image_ids[: data.num_eval_images].tolist()
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    if missing := places.keys() - set(predictions.base.image_ids()):
        raise CheckpointError(
            f"{predictions.base.path}: {len(missing)} images are not in it; {predictions.base.advice}"
        )
    size = max(FUSIONS_A_BLOCK // len(evaluation.entries), 1)
    blocks = [image_ids[start : start + size] for start in range(0, len(image_ids), size)]
    work = SavedPass(evaluation, predictions, places, data.eval_data if "image" in evaluation.requires else None)
    totals = copy.deepcopy(evaluation.metrics)
    worth_starting = max(len(image_ids) * len(evaluation.entries) // FUSIONS_A_WORKER, 1)
    processes = min(processes or available_cores(), worth_starting)
    for states in ordered_map(work, blocks, len(blocks), processes, "fusing", chunk=1):
        for total, state in zip(totals, states, strict=True):
            total.merge_state(state)
    for metric, total in zip(evaluation.metrics, totals, strict=True):
        metric.reset()
        metric.merge_state(total.metric_state)
        metric._update_count = len(image_ids)  # else torchmetrics warns that nothing was counted
