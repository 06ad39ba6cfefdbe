"""Pictures: panoptic overlays, the pixels where two results differ, sheets of both."""
