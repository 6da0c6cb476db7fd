"""Tools that know nothing of video, models or config."""
