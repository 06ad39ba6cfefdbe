"""Data sets: images, panoptic maps, instances and the ground-truth relations among them."""
