"""Train and test UniFormer video classifiers: one config tree, one path from a video to its scores."""

__version__ = "0.1.0"
