"""Data in the official COCO layout: reading, writing, checking."""
