"""A trained run as a function of images."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.coco.images import read_rgb
from panoptic_occ.data.coco.orientation import Orientation
from panoptic_occ.evaluation.evaluator import Entry, relate
from panoptic_occ.fusion.engine import FusionPolicy, fuse
from panoptic_occ.fusion.erasing import StuffLabels
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.build import plan_of_run
from panoptic_occ.runs.loading import load_base, load_order, run_categories
from panoptic_occ.runs.plan import RunPlan, build_model
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.sample import Sample

Picture = str | Path | Image.Image | UInt8[np.ndarray, "h w 3"] | UInt8[Tensor, "3 h w"]
"""An image in any of the forms that a predictor takes."""


@dataclass(frozen=True, eq=False)
class Prediction(PanopticMap):
    """A panoptic map, the ``instances`` that it was made of and the ``relation`` among them.

    ``records``: of every instance, why it was kept or dropped.

    >>> prediction = load(run)(image)
    >>> isinstance(prediction, PanopticMap), prediction.relation.margin.shape[0] == len(prediction.instances)
    (True, True)
    """

    instances: InstanceSet | None = None
    relation: Relation | None = None


class Predictor:
    """``predictor(image)`` gives the panoptic map of an image, see ``load``.

    >>> predictor = load(run, "fusion.conf_thr=0.5")
    >>> predictor.policy.conf_thr, [category.name for category in predictor.categories.items if category.isthing][:2]
    (0.5, ['disc', 'tile'])
    """

    def __init__(
        self,
        model: PanopticFPN,
        policy: FusionPolicy,
        transform: Callable[[Sample, int], Sample],
        categories: Categories,
        device: torch.device,
        orientation: Orientation = "pixels",
    ) -> None:
        self.model = model.to(device).eval()
        self.policy = policy
        self.transform = transform
        self.categories = categories
        self.device = device
        self.orientation = orientation

    @classmethod
    def of(cls, plan: RunPlan) -> Predictor:
        """The predictor of a trained run.

        CheckpointError when it has not been trained; ConfigError for an order that reads annotations.
        """
        categories = run_categories(plan.folder)
        model = build_model(plan, categories)
        load_base(model, plan.base)
        model.occlusion = load_order(plan.order, plan.base, model.occlusion.in_channels, categories)
        if "target" in model.occlusion.requires:
            raise ConfigError(f"occlusion={plan.method} reads annotations, and these images have none; choose another")
        if "class_table" in model.occlusion.requires:
            raise ConfigError(
                f"occlusion={plan.method} counts the pairs of a training set, and predict reads none; choose another, "
                "such as occlusion=area"
            )
        on_cpu = plan.trainer.settings.get("accelerator") == "cpu" or not torch.cuda.is_available()
        data, device = plan.data.build(), torch.device("cpu" if on_cpu else "cuda")
        return cls(model, plan.policy, data.eval_transform, categories, device, data.source.orientation)

    @torch.inference_mode()
    def __call__(self, image: Picture) -> Prediction:
        """The panoptic map of an image: a file (read as the images that the run was trained on, see
        ``data.source.orientation``), a Pillow image, an array (H,W,3) or a tensor (3,H,W) of RGB bytes.

        DataError for a file that cannot be read, ValueError for an array of another shape or type.
        """
        pixels = pixels_of(image, self.orientation)
        sample = Sample(pixels, 0, "image", (pixels.shape[1], pixels.shape[2]))
        requires = self.model.occlusion.requires | self.policy.requires
        moved = self.transform(sample, 0).to(self.device)
        (output,) = self.model.base_outputs([moved], self.policy.conf_thr, requires)
        entry = Entry("", "", self.model.occlusion, self.policy)
        relation = relate(entry, output, sample.to(self.device), frozenset())
        stuff = StuffLabels(output.semantic).under(self.policy)
        panoptic = fuse(output.instances, output.stats, relation, stuff, self.policy, self.categories)
        return Prediction(panoptic.ids, panoptic.segments, panoptic.records, output.instances, relation)


def load(
    run: str | Path, *overrides: str, trusted: Collection[str] = (), config_dir: str | Path | None = None
) -> Predictor:
    """The predictor of the run in a folder that ``train`` made.

    ``overrides``: words as on the command line, such as ``fusion.conf_thr=0.7`` or ``trainer.accelerator=cpu``.
    ``trusted``: packages of your own that the run may name; ``config_dir``: your own configuration files, if the run
    was made with such.  CheckpointError when there is no trained run.

    >>> predictor = load(run, "fusion.conf_thr=0.1")  # run: the folder that train printed at its end
    >>> prediction = predictor(image)  # image: a file
    >>> prediction.ids.shape, len(prediction.records) == len(prediction.instances)
    (torch.Size([96, 96]), True)
    """
    return Predictor.of(
        plan_of_run(Path(run), [f"run={run}", *overrides], trusted, Path(config_dir) if config_dir else None)
    )


def pixels_of(image: Picture, orientation: Orientation = "pixels") -> UInt8[Tensor, "3 h w"]:
    """RGB bytes (3,H,W) of an image in any of the forms that a predictor takes; ``orientation``: of files."""
    if isinstance(image, str | Path):
        image = read_rgb(Path(image), upright=orientation == "exif")
    elif isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    pixels: Any = image
    if isinstance(image, np.ndarray) and image.ndim == 3:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    is_rgb = isinstance(pixels, Tensor) and pixels.ndim == 3 and len(pixels) == 3 and pixels.dtype == torch.uint8
    if not is_rgb or not pixels.numel():
        shape, kind = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"an image of {kind} {shape}: give uint8 RGB as an array (H,W,3), a tensor (3,H,W) or a file")
    tensor: Tensor = pixels.contiguous()
    return tensor
