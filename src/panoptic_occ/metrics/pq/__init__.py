"""Panoptic quality as COCO defines it: of tensors, of files, as a metric."""
