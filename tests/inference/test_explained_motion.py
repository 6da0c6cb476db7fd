"""Maps of trained models: they lie on the shape that moves, and deleting them costs the most."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

import slowfast
from slowfast.preparation.motion import make_motion

NUM_VIDEOS = 104
MARGIN = 4  # pixels around the box of the shape

# Two epochs of 400 videos leave UniFormer at chance, so it has those of the quickstart.
UNIFORMER = {"SOLVER.MAX_EPOCH": 10}
# Full crops take r3d_18 half an hour on two cores.
R3D_18 = {
    "MODEL.MODEL_NAME": "r3d_18",
    "SOLVER.MAX_EPOCH": 2,
    "SOLVER.WARMUP_EPOCHS": 0,
    "SOLVER.BASE_LR": 3e-4,
    "TRAIN.EVAL_PERIOD": 2,
    "TRAIN.CHECKPOINT_PERIOD": 2,
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
}


class Checked(NamedTuple):
    """What the maps of many videos say."""

    share_on_shape: NDArray[np.float64]  # of the hottest tenth, of each frame that a view shows
    areas: NDArray[np.float64]  # (N, 3), below the deletion curves of map, random and gaussian


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training videos of the quickstart, and NUM_VIDEOS to test."""
    folder = tmp_path_factory.mktemp("motion")
    counts = {"train": 200, "val": 2, "test": NUM_VIDEOS // 8}
    make_motion(folder, videos_per_class=counts, num_processes=2)
    return folder


def train(motion: Path, folder: Path, *, repository: Path, settings: dict[str, object]) -> Path:
    config = yaml.safe_load((repository / "exp/quickstart/config.yaml").read_text())
    if "MODEL.MODEL_NAME" in settings:
        del config["UNIFORMER"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))

    everything = {
        "DATA.PATH_TO_DATA_DIR": motion,
        "DATA.PATH_PREFIX": motion,
        "DATA.CLASS_NAMES": motion / "classes.txt",
        "TEST.ENABLE": False,
        "OUTPUT_DIR": folder / "run",
        **settings,
    }
    words = [str(word) for pair in everything.items() for word in pair]
    command = [sys.executable, str(repository / "tools/run_net.py"), "--cfg", "config.yaml"]
    subprocess.run([*command, *words], cwd=folder, check=True)
    return folder / "run"


def check(run: Path, motion: Path) -> Checked:
    classifier = slowfast.load(run)
    boxes = np.load(motion / "boxes_test.npy")
    rows = list(csv.reader((motion / "test.csv").open()))

    shares, areas = [], []
    for (path, _), boxes_of_video in zip(rows, boxes, strict=True):
        explanation = classifier.explain(motion / path, clips=1)
        assert explanation.curves is not None
        orders = ("map", "random", "gaussian")
        areas.append([explanation.curves.area("deletion", order) for order in orders])
        for number in explanation.maps.seen_numbers.tolist():
            heat, counts = explanation.frame(number)
            top, left, bottom, right = boxes_of_video[number]
            is_near = np.zeros(heat.shape, bool)
            rows_near = slice(max(top - MARGIN, 0), bottom + MARGIN)
            is_near[rows_near, max(left - MARGIN, 0) : right + MARGIN] = True
            is_hot = (counts > 0) & (heat >= np.quantile(heat[counts > 0], 0.9))
            shares.append(is_near[is_hot].mean())
    return Checked(np.array(shares), np.array(areas))


def paired_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over videos."""
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (5000, len(differences))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return low, high


@pytest.mark.soak
@pytest.mark.parametrize("settings", [UNIFORMER, R3D_18], ids=["uniformer", "r3d_18"])
def test_maps_lie_on_the_shape_and_matter_most(
    motion: Path, tmp_path: Path, repository: Path, settings: dict[str, object]
) -> None:
    torch.manual_seed(0)
    checked = check(train(motion, tmp_path, repository=repository, settings=settings), motion)
    assert len(checked.areas) == NUM_VIDEOS

    share = (checked.share_on_shape >= 0.5).mean()
    lower = {
        name: paired_interval(checked.areas[:, 0] - checked.areas[:, column])
        for column, name in ((1, "random"), (2, "gaussian"))
    }
    print(f"{share:.3f} of the frames, deletion {checked.areas.mean(axis=0)}, minus {lower}")
    assert share >= 0.7
    assert lower["random"][1] < 0
    assert lower["gaussian"][1] < 0
