"""The rows of benchmarks/gpu.py, by what they check or measure."""
