"""Parts of benchmarks/model.py and benchmarks/memory.py by subject."""
