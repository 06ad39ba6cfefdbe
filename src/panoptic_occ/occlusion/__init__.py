"""Who lies in front: one file per method, all behind the contract of ``base.py``."""
