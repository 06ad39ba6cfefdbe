"""``python -m panoptic_occ.evaluate``: evaluates a run again, with any order and fusion policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panoptic_occ.commands.app import command

if TYPE_CHECKING:
    from panoptic_occ.runs.plan import RunPlan


@command(
    "evaluate",
    "Evaluates a trained run, or an oracle base made of the annotations, beside the baselines on the same detections. "
    "Thresholds and orders may differ from training; results go to evaluations/ in the run's folder. What the network "
    "sees can be stored once (save_predictions=true) and fused again on a CPU (saved=true), also at every point of a "
    "grid of fusion.* and occlusion.* values. An evaluation that was made before is shown, not repeated.",
    {
        "run=runs/scenes/ocfusion_small_s0 fusion.min_visible=0.4": "a finished run with another threshold",
        "run=runs/scenes/ocfusion_small_s0 save_maps=true": "write the maps for the official scorer too",
        "run=runs/scenes/ocfusion_small_s0 save_predictions=true": "store what the network says, for saved=true",
        "run=runs/scenes/ocfusion_small_s0 saved=true 'grid={fusion.min_visible: [0.4, 0.5, 0.6], "
        "occlusion.sig_ratio: [0.05, 0.1, 0.2]}'": "nine settings in one pass, without the network",
        "-m run=runs/scenes/ocfusion_small_s0 sweep=thresholds_optuna compare=[]": "search the thresholds of the "
        "highest PQ in stored predictions",
        "experiment=oracle_base data=coco data.root=/data/coco": "annotations as detections: what each order can reach",
    },
    groups=("data", "occlusion", "fusion", "tta", "trainer", "logger", "method", "preset", "experiment", "sweep"),
)
def main(plan: RunPlan) -> float:
    """The command."""
    from panoptic_occ.commands.evaluating import evaluate
    from panoptic_occ.commands.sweeps import score_of

    return score_of(evaluate(plan))


if __name__ == "__main__":
    main()
