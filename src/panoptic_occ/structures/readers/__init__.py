"""Detections of other packages, read by their documented attributes alone: none of those packages is imported."""
