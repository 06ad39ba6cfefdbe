"""How fast the suite is beside the straightforward public ways; see ``scripts/benchmark.py``."""
