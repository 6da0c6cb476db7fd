import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slowfast.datasets.boxes import Box
from slowfast.datasets.resize import Placement, resize_into

ROOT = Path(__file__).parents[2]


def test_normalization_by_hand() -> None:
    planes = np.array([0, 51, 255], dtype=np.uint8).reshape(3, 1, 1, 1)
    out = torch.empty(3, 1, 1, 1)
    resize_into(
        out, planes, size=(1, 1), window=Box(0, 0, 1, 1), mean=[0.5, 0.2, 0.0], std=[0.5, 0.1, 0.25]
    )
    assert out.flatten().tolist() == pytest.approx([-1.0, 0.0, 4.0], abs=1e-6)


def test_bilinear_weights_by_hand() -> None:
    # Four columns become two: each lies halfway between two columns. Two rows become four: at -1/4, 1/4, 3/4, 5/4.
    planes = np.array([[0, 10, 20, 50], [100, 110, 120, 150]], dtype=np.uint8).reshape(1, 1, 2, 4)
    out = torch.empty(1, 1, 4, 2)
    resize_into(out, planes, size=(4, 2), window=Box(0, 0, 4, 2), mean=[0.0], std=[1 / 255])
    assert out[0, 0].tolist() == [
        pytest.approx(row) for row in ([5, 35], [30, 60], [80, 110], [105, 135])
    ]


def test_frames_are_written_to_their_places() -> None:
    planes = np.arange(4, dtype=np.uint8).reshape(1, 4, 1, 1)
    out = torch.full((1, 5, 1, 1), torch.nan)
    placement = Placement(sources=np.array([3, 0, 3]), targets=np.array([0, 2, 4]))
    box = Box(0, 0, 1, 1)
    resize_into(
        out, planes, size=(1, 1), window=box, mean=[0.0], std=[1 / 255], placement=placement
    )
    assert out[0, ::2].flatten().tolist() == pytest.approx([3, 0, 3])
    assert out[0, 1::2].isnan().all()


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_any_window_equals_torch_resize_crop_flip_and_normalize(seed: int, flipped: bool) -> None:
    rng = np.random.default_rng(seed)
    height, width, resized_height, resized_width = (int(side) for side in rng.integers(1, 70, 4))
    top, left = int(rng.integers(resized_height)), int(rng.integers(resized_width))
    window = Box(
        top,
        left,
        int(rng.integers(1, resized_height - top + 1)),
        int(rng.integers(1, resized_width - left + 1)),
    )
    planes = rng.integers(0, 256, (3, 2, height + 3, width + 5), dtype=np.uint8)[:, :, 1:-2, 2:-3]
    planes = (
        planes if seed % 4 else planes.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)
    )  # any order in memory
    mean, std = [0.45, 0.3, 0.2], [0.225, 0.3, 0.25]
    clip = F.interpolate(
        torch.from_numpy(planes.astype(np.float32)),
        (resized_height, resized_width),
        mode="bilinear",
    )[:, :, top : top + window.height, left : left + window.width]
    expected = (clip / 255 - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(
        3, 1, 1, 1
    )
    out = torch.full(
        (3, 4, window.height, window.width + 1), torch.nan
    )  # written to a part of a batch
    resize_into(
        out[:, ::2, :, 1:],
        planes,
        size=(resized_height, resized_width),
        window=window,
        flipped=flipped,
        mean=mean,
        std=std,
    )
    torch.testing.assert_close(
        out[:, ::2, :, 1:], expected.flip(3) if flipped else expected, atol=1e-5, rtol=0
    )
    assert out[:, 1::2].isnan().all()
    assert out[..., 0].isnan().all()


def test_frames_are_not_written_to_and_may_be_read_only() -> None:
    planes = np.zeros((3, 1, 4, 4), dtype=np.uint8)
    planes.flags.writeable = False
    out = torch.empty(3, 1, 2, 2)
    resize_into(out, planes, size=(2, 2), window=Box(0, 0, 2, 2), mean=[0.5] * 3, std=[0.5] * 3)
    assert (out == -1).all()


def test_it_works_where_nothing_compiled_can_be_kept(tmp_path: Path) -> None:
    # numba looks for a folder beside the file, then in the user's cache; here a file is in the way of both.
    package = tmp_path / "slowfast"
    subprocess.run(["cp", "-r", ROOT / "slowfast", package], check=True)
    for folder in (package / "datasets/__pycache__", tmp_path / "cache"):
        subprocess.run(["rm", "-rf", folder], check=True)
        folder.write_text("")
    code = "import slowfast.datasets.resize as module; print(module.__file__, module._resize.stats.cache_path)"
    environment = {
        "PYTHONPATH": str(tmp_path),
        "HOME": str(tmp_path / "cache"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(package / "datasets/resize.py"), "None"]
