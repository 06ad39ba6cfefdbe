"""``python -m panoptic_occ.prepare``: makes a data set ready and shows the statistics of its occlusions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from panoptic_occ.commands.app import command

if TYPE_CHECKING:
    from panoptic_occ.runs.plan import RunPlan


@command(
    "prepare",
    "Generates or verifies a data set, computes and caches the occlusion relations of its train and val splits, and "
    "prints how many pairs overlap, how many have an owner, and how far size alone predicts who lies on top.",
    {
        "data=coco data.root=/data/coco": "COCO 2017, on all cores",
        "data=coco data.root=/data/coco check=true": "read every file first and list all problems",
        "data=coco data.root=/data/coco report=problems.csv": "the same, with all problems in a file",
        "data=cityscapes data.root=/data/cityscapes": "Cityscapes; converts its annotations first",
        "data=scenes force=true": "the embedded scenes; compute their relations again",
    },
    groups=("data",),
)
def main(plan: RunPlan) -> None:
    """The command."""
    from panoptic_occ.data.relations.preparation import prepare

    source, options = plan.data.build().source, plan.options
    report = options["report"] and Path(options["report"])
    prepare(source, plan.processes, rebuild=options["force"], check_files=options["check"], report=report)


if __name__ == "__main__":
    main()
