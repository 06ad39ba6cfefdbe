"""Stored predictions: what the network found once, to be fused again without it."""
