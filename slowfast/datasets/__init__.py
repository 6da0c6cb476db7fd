"""Videos to batches: lists, decoding, sampling, transforms and the loader."""
