"""The one-pass resize against values by hand and against torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slowfast.datasets.boxes import Box
from slowfast.datasets.normalization import normalizing_scaling
from slowfast.datasets.resize import PixelScaling, Placement, resize_into

ROOT = Path(__file__).parents[2]
KEEP_VALUES = PixelScaling(np.ones(1, np.float32), np.zeros(1, np.float32))


def test_normalization_by_hand() -> None:
    planes = np.array([0, 51, 255], dtype=np.uint8).reshape(3, 1, 1, 1)
    out = torch.empty(3, 1, 1, 1)
    scaling = normalizing_scaling(mean=[0.5, 0.2, 0.0], std=[0.5, 0.1, 0.25])
    resize_into(out, planes, size=(1, 1), window=Box(0, 0, 1, 1), scaling=scaling)
    assert out.flatten().tolist() == pytest.approx([-1.0, 0.0, 4.0], abs=1e-6)


def test_bilinear_weights_by_hand() -> None:
    # Four columns become two, each halfway between two columns. Two rows become four, at -1/4, 1/4,
    # 3/4 and 5/4.
    planes = np.array([[0, 10, 20, 50], [100, 110, 120, 150]], dtype=np.uint8).reshape(1, 1, 2, 4)
    out = torch.empty(1, 1, 4, 2)
    resize_into(out, planes, size=(4, 2), window=Box(0, 0, 4, 2), scaling=KEEP_VALUES)
    expected = [[5, 35], [30, 60], [80, 110], [105, 135]]
    assert out[0, 0].tolist() == [pytest.approx(row) for row in expected]


def test_frames_are_written_to_their_targets() -> None:
    planes = np.arange(4, dtype=np.uint8).reshape(1, 4, 1, 1)
    out = torch.full((1, 5, 1, 1), torch.nan)
    resize_into(
        out,
        planes,
        size=(1, 1),
        window=Box(0, 0, 1, 1),
        scaling=KEEP_VALUES,
        placement=Placement(sources=np.array([3, 0, 3]), targets=np.array([0, 2, 4])),
    )
    assert out[0, ::2].flatten().tolist() == pytest.approx([3, 0, 3])
    assert out[0, 1::2].isnan().all()


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_any_window_equals_that_of_torch(seed: int, flipped: bool) -> None:
    rng = np.random.default_rng(seed)
    height, width, resized_height, resized_width = (int(side) for side in rng.integers(1, 70, 4))
    top, left = int(rng.integers(resized_height)), int(rng.integers(resized_width))
    window_height = int(rng.integers(1, resized_height - top + 1))
    window_width = int(rng.integers(1, resized_width - left + 1))
    window = Box(top, left, window_height, window_width)

    # Frames that are not contiguous in memory, and every fourth time columns before rows.
    planes = rng.integers(0, 256, (3, 2, height + 3, width + 5), dtype=np.uint8)[:, :, 1:-2, 2:-3]
    if seed % 4 == 0:
        planes = planes.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)

    mean, std = [0.45, 0.3, 0.2], [0.225, 0.3, 0.25]
    pixels = torch.from_numpy(planes.astype(np.float32))
    resized = F.interpolate(pixels, (resized_height, resized_width), mode="bilinear")
    clip = resized[:, :, top : top + window_height, left : left + window_width] / 255
    expected = (clip - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)

    # Write to a section of a larger tensor, as to a clip of a batch.
    out = torch.full((3, 4, window_height, window_width + 1), torch.nan)
    section = out[:, ::2, :, 1:]
    resize_into(
        section,
        planes,
        size=(resized_height, resized_width),
        window=window,
        scaling=normalizing_scaling(mean, std),
        flipped=flipped,
    )
    torch.testing.assert_close(
        section, expected.flip(3) if flipped else expected, atol=1e-5, rtol=0
    )
    assert out[:, 1::2].isnan().all()
    assert out[..., 0].isnan().all()


def test_frames_may_be_read_only() -> None:
    planes = np.zeros((3, 1, 4, 4), dtype=np.uint8)
    planes.flags.writeable = False
    out = torch.empty(3, 1, 2, 2)
    scaling = normalizing_scaling(mean=[0.5] * 3, std=[0.5] * 3)
    resize_into(out, planes, size=(2, 2), window=Box(0, 0, 2, 2), scaling=scaling)
    assert (out == -1).all()


FIRST_USE = """
import sys
import slowfast.datasets.resize as resize
import slowfast.datasets.transforms
print(resize.__file__, "numba" in sys.modules, resize.compile_resize().stats.cache_path)
"""


def test_first_use_compiles_even_where_no_cache_is_writable(tmp_path: Path) -> None:
    # numba looks for a folder beside the file, then in the user's cache. Here, a file blocks both.
    package = tmp_path / "slowfast"
    subprocess.run(["cp", "-r", ROOT / "slowfast", package], check=True)
    for folder in (package / "datasets/__pycache__", tmp_path / "cache"):
        subprocess.run(["rm", "-rf", folder], check=True)
        folder.write_text("")

    environment = {
        "PYTHONPATH": str(tmp_path),
        "HOME": str(tmp_path / "cache"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    result = subprocess.run(
        [sys.executable, "-c", FIRST_USE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == [str(package / "datasets/resize.py"), "False", "None"]
