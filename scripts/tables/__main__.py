"""Makes tables of the papers, measured beside published: ``python -m scripts.tables --help``."""

import sys

from scripts.tables.command import main

if __name__ == "__main__":
    sys.exit(main())
