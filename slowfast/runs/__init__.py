"""Runs: the record and the checkpoints in the directory of a run."""
