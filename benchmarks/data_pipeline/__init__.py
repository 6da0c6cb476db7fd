"""Parts of benchmarks/data.py: its videos, its baseline and the processes that measure."""
