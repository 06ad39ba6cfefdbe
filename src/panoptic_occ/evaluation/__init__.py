"""Compares orders side by side on the same detections."""
