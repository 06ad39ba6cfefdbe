"""Fits the two stages: the Lightning module, schedules, callbacks, trackers."""
