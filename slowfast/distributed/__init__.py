"""Processes of a job: how they start, find each other, combine their numbers and stop."""
