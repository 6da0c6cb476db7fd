"""The loops: training and evaluation."""
