"""Cityscapes (Cordts et al., CVPR 2016): read as distributed, converted once into the COCO panoptic layout."""
