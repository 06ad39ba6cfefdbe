"""From detections, their order and a stuff map to one panoptic map."""
