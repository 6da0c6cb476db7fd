"""What the scores of an evaluation say: per-video scores, metrics and the written result."""
