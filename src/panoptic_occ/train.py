"""``python -m panoptic_occ.train``: trains the base, then the occlusion module, and evaluates the method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panoptic_occ.commands.app import command

if TYPE_CHECKING:
    from panoptic_occ.runs.plan import RunPlan


@command(
    "train",
    "Trains the shared base (once), freezes it, trains the method's occlusion module, and evaluates the method beside "
    "the baselines on the same detections. The same command continues an interrupted run and does not repeat "
    "a finished one.",
    {
        "method=ocfusion": "OCFusion on the embedded scenes, minutes on a CPU",
        "method=ocfusion experiment=coco data.root=/data/coco": "OCFusion on COCO 2017 with a pretrained ResNet-50",
        "-m method=panoptic_fpn,ocfusion seed=0,1,2": "a sweep; methods of one seed share their base",
        "-m sweep=methods hydra/launcher=slurm_1gpu": "the same for all methods on a cluster, a job for each run",
    },
)
def main(plan: RunPlan) -> float:
    """The command."""
    from panoptic_occ.commands.sweeps import score_of
    from panoptic_occ.commands.training import train

    return score_of(train(plan))


if __name__ == "__main__":
    main()
