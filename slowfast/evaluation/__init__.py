"""Evaluation: per-video scores, the metrics computed from them, and the written report."""
