"""Manifest: reading it, and telling it from other files."""

from pathlib import Path

import pytest

from slowfast.datasets.manifest import Entry, read_manifest


def test_a_row_with_columns_missing_is_named(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(",".join(Entry._fields) + "\na.mp4,ok\n")
    message = r"manifest\.csv line 2 is \['a\.mp4', 'ok'\]. Expected the columns .*Delete the line"
    with pytest.raises(ValueError, match=message):
        read_manifest(str(manifest))


@pytest.mark.parametrize("content", ["", "\x00\x01"])
def test_a_file_that_is_not_a_manifest_is_refused(tmp_path: Path, content: str) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(content)
    message = r"manifest\.csv is not a manifest. Name another file, or make one"
    with pytest.raises(ValueError, match=message):
        read_manifest(str(manifest))


def test_a_large_manifest_keeps_unreadable_videos_in_memory(tmp_path: Path) -> None:
    # 200,000 rows, every hundredth damaged, and every thousandth repaired later.
    def format_row(number: int, status: str) -> str:
        return f"{number:07d}.mp4,{status},,1,2,3,25,4,5,h264,1,,\n"

    rows = [",".join(Entry._fields) + "\n"]
    for number in range(200_000):
        rows.append(format_row(number, "ok" if number % 100 else "damaged"))
    rows += [format_row(number, "ok") for number in range(0, 200_000, 1000)]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("".join(rows))

    found = read_manifest(str(manifest))
    assert found.num_checked == 200_000
    damaged = [number for number in range(0, 200_000, 100) if number % 1000]
    assert list(found.unreadable) == [f"{number:07d}.mp4" for number in damaged]
