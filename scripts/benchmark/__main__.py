"""How fast the suite is beside the straightforward public ways: ``python -m scripts.benchmark --help``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    from scripts.benchmark.command import main  # here: worker processes read this file, too, and need no torch

    ROOT = Path(__file__).resolve().parents[2]
    sys.exit(main(results=ROOT / "results" / "benchmark.json", readme=ROOT / "README.md"))
