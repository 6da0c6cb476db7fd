"""Rows of the table of benchmarks/gpu.py by subject."""
