"""Makes tables of the papers, measured beside published: ``python scripts/reproduce.py --help``."""

import sys
from pathlib import Path

from panoptic_occ.reproduce.command import main

if __name__ == "__main__":
    sys.exit(main(results=Path(__file__).resolve().parents[1] / "results" / "tables"))
