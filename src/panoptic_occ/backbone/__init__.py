"""Backbones: pyramids of features P2..P5 (strides 4..32) and P6 for the region proposals."""
