"""Makes tables of the papers, measured beside published: ``python -m scripts.tables --help``."""

import sys
from pathlib import Path

from scripts.tables.command import main

if __name__ == "__main__":
    sys.exit(main(results=Path(__file__).resolve().parents[2] / "results" / "tables"))
