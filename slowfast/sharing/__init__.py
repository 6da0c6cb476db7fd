"""Sharing trained models: their model cards, and repositories on the Hugging Face Hub."""
