"""Processes of a job: how they start, find each other, communicate and stop."""
