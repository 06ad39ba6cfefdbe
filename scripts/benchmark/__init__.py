"""How fast the suite is beside the straightforward public ways; see ``python -m scripts.benchmark``."""
