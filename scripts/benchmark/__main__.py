"""How fast the suite is beside the straightforward public ways: ``python -m scripts.benchmark --help``."""

import sys

if __name__ == "__main__":
    from scripts.benchmark.command import main  # here: worker processes read this file, too, and need no torch

    sys.exit(main())
