"""Inference: a model applied to videos, for validation, tests, predictions and features."""
