"""Probing: heads that are trained on stored features, many at once."""
