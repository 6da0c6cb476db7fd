"""Explanations: where in a video a model sees the evidence for a class."""
