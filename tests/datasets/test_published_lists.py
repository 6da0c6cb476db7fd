"""Errors of the readers of published lists."""

from pathlib import Path

import pytest

from slowfast.datasets.annotation_lists import Source
from slowfast.datasets.class_name_files import read_class_names
from slowfast.datasets.published_lists import read_kinetics, read_something_v2


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_long_invalid_row_is_shown_without_its_middle(tmp_path: Path) -> None:
    header = "label,youtube_id,time_start,time_end\n"
    path = write(tmp_path / "list.csv", header + "a" * 5000 + ",b,1,2\n")
    source = Source(path, split_name="train", video_template="{youtube_id}", class_names=("x",))
    message = r"line 2 has the class 'aaa.*a \.\.\. a.*, which is not among the 1 class names$"
    with pytest.raises(ValueError, match=message) as caught:
        read_kinetics(source)
    assert len(str(caught.value)) < 600 + len(path)


def test_json_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "list.json", "[" * 100_000)
    with pytest.raises(ValueError, match=r"list\.json: not JSON: "):
        read_something_v2(Source(path, video_template="{id}", class_names=("x",)))
    with pytest.raises(ValueError, match=r"list\.json: not JSON: "):
        read_class_names(path)
