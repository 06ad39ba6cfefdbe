"""A command of a second, in the suite's own frame: counts to ten in a file, and goes on where it was killed."""

from __future__ import annotations

import time

from panoptic_occ.commands.app import command
from panoptic_occ.commands.sweeps import note
from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import write_text
from panoptic_occ.runs.plan import RunPlan


@command("train", "Counts.", {})
def main(plan: RunPlan) -> float:
    """Ten steps of a tenth of a second; seed 13 fails as long as there is a file ``broken``."""
    folder = plan.runs_dir / str(plan.seed)
    folder.mkdir(parents=True, exist_ok=True)
    result, steps = folder / "result", folder / "steps"
    if result.exists():
        note(state="skipped")
        return float(result.read_text())
    if plan.seed == 13 and (plan.runs_dir / "broken").exists():
        raise DataError("image 13: truncated")
    done = int(steps.read_text()) if steps.exists() else 0
    for step in range(done, 10):
        time.sleep(0.1)
        write_text(steps, str(step + 1))
    write_text(result, str(plan.seed / 100))
    return plan.seed / 100


if __name__ == "__main__":
    main()
