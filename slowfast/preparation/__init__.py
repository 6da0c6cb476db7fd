"""Offline work on videos and lists, which the tools run before a training."""
