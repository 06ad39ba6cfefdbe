"""The embedded data set: procedurally painted scenes in the official COCO panoptic layout."""
