"""The demo: a page and a JSON endpoint that classify videos with trained models."""
