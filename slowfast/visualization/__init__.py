"""What a run shows beyond its lines of text."""
