"""The stuff branch: semantic segmentation of every pixel."""
