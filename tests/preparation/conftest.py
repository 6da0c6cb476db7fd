"""Fixtures of the tests of offline preparation."""

from pathlib import Path

import pytest


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder for videos, with an empty class folder."""
    (tmp_path / "videos/a class").mkdir(parents=True)
    return tmp_path / "videos"
