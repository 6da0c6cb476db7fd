"""Trackers of a run, its figures, contact sheets and annotated videos."""
