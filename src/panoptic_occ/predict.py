"""``python -m panoptic_occ.predict``: panoptic maps and overlays of any images with a trained run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panoptic_occ.commands.app import command

if TYPE_CHECKING:
    from panoptic_occ.runs.plan import RunPlan


@command(
    "predict",
    "Segments images with a trained run: writes panoptic PNGs and JSON in the official format, and an overlay each.",
    {
        "run=runs/scenes/ocfusion_small_s0 input=photo.jpg output=out": "one image",
        "run=runs/scenes/ocfusion_small_s0 input=photos output=out": "all images of a folder",
        "run=runs/scenes/ocfusion_small_s0 images=val.json input=val output=out": "the images of a COCO JSON, "
        "under their own ids and names",
        "run=runs/scenes/ocfusion_small_s0 input=photos output=out fusion.conf_thr=0.7": "only surer detections",
        "run=runs/scenes/ocfusion_small_s0 input=photos output=out force=true": "replace what an earlier predict wrote",
    },
    groups=("occlusion", "fusion", "tta", "trainer"),
)
def main(plan: RunPlan) -> None:
    """The command."""
    from panoptic_occ.commands.predicting import predict

    predict(plan)


if __name__ == "__main__":
    main()
