"""The thing branch: instance detections with soft masks."""
