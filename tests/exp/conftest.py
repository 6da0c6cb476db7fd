"""Fixtures of the tests of experiments: small datasets, small weights and small runs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from slowfast.datasets.build import DATASETS
from slowfast.models.uniformer import UniFormer
from slowfast.models.uniformer_light import UniFormerLight
from slowfast.models.zoo import published
from slowfast.preparation.encode import write_video
from slowfast.preparation.motion_scenes import draw_scene
from tests.exp.experiments import EXPERIMENTS, load_experiment
from tests.exp.small_run import TINY, SmallRun

Serve = Callable[..., list[int]]


class Folders(NamedTuple):
    """A dataset of two classes: 8 videos to train on, and 4 for validation and test."""

    lists: Path
    videos: Path


@pytest.fixture(scope="session")
def dataset_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Folders]:
    """The dataset of an experiment, with lists and files as they are published.

    All experiments with the same folder of lists share one dataset.
    """

    @cache
    def make(lists: str) -> Folders:
        lists_folder = tmp_path_factory.mktemp("the lists")
        folders = Folders(lists_folder, tmp_path_factory.mktemp("the videos"))
        exp = next(exp for exp in EXPERIMENTS if EXPERIMENTS[exp].lists == lists)
        write_dataset(folders, exp)
        return folders

    return lambda exp: make(EXPERIMENTS[exp].lists)


def write_dataset(folders: Folders, exp: str) -> None:
    """Write the videos and the lists of an experiment."""
    dataset = DATASETS[load_experiment(exp).TRAIN.DATASET]
    for split, num_videos in (("train", 8), ("val", 4)):
        rows = []
        for index in range(num_videos):
            frames = draw_scene(index % 2, np.random.default_rng((index, num_videos))).frames
            write = write_frames if dataset.is_frames else write_file
            rows.append(write(frames, folders.videos, exp=exp, name=f"{split}_{index}"))

        for name in dataset.split_names[split]:
            (folders.lists / dataset.list_templates[0].format(name)).write_text("".join(rows))


def write_frames(frames: NDArray[np.uint8], videos: Path, *, exp: str, name: str) -> str:
    """Write a folder of frames, and return its row of a list."""
    (videos / name).mkdir()
    template = load_experiment(exp).DATA.IMAGE_TEMPLATE
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(videos / name / template.format(number))
    return f"{name} {len(frames)} {label_in(name)}\n"


def write_file(frames: NDArray[np.uint8], videos: Path, *, exp: str, name: str) -> str:
    """Write a video file, and return its row of a list."""
    experiment = EXPERIMENTS[exp]
    suffix = "avi" if "ucf101" in experiment.lists else "mp4"
    path = videos / f"class {label_in(name)}" / f"v_{name}.{suffix}"
    path.parent.mkdir(exist_ok=True)
    write_video(path, frames)
    return f"{path.relative_to(videos)}{experiment.separator}{label_in(name)}\n"


def label_in(name: str) -> int:
    return int(name.rpartition("_")[2]) % 2


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny model, in files with the names of the published ones."""
    folder = tmp_path_factory.mktemp("the weights")
    torch.manual_seed(0)
    kinds = {(case.start_weights, case.is_light) for case in EXPERIMENTS.values()}
    for name, is_light in kinds:
        num_classes = 600 if "k600" in name else 400
        if name.endswith("in1k"):
            content = {"model": flat_weights(num_classes=1000, is_light=is_light)}
        else:
            content = {"model_state": UniFormer(num_classes=num_classes, **TINY).state_dict()}
        torch.save(content, folder / published()[name].file)
    return folder


def flat_weights(*, num_classes: int, is_light: bool) -> dict[str, Tensor]:
    """Return the weights of an image model, which have no time axis."""
    build = UniFormerLight if is_light else UniFormer
    weights = dict(build(num_classes=num_classes, **TINY).state_dict())
    for key, value in weights.items():
        if value.dim() == 5:
            weights[key] = value.sum(dim=2)
    return weights


@pytest.fixture
def small_run(
    dataset_for: Callable[[str], Folders], weights_dir: Path, tmp_path: Path
) -> Callable[..., SmallRun]:
    """A run of an experiment with two steps of 4 videos and two test batches of 2 videos.

    All settings that are not sizes are those of the experiment.
    """

    def make(exp: str, *, serve: Serve | None = None) -> SmallRun:
        experiment, data = EXPERIMENTS[exp], dataset_for(exp)
        recomputed = load_experiment(exp).MODEL.CHECKPOINT_NUM
        settings: dict[str, Any] = {
            "NUM_GPUS": 0,
            "NUM_SHARDS": 1,
            "TRAIN.BATCH_SIZE": 4,
            "TEST.BATCH_SIZE": 2 * experiment.num_clips * experiment.num_crops,
            "DATA.TRAIN_CROP_SIZE": 32,
            "DATA.TEST_CROP_SIZE": 32,
            "DATA_LOADER.NUM_WORKERS": 0,
            "TRAIN.REHEARSE": exp == "uniformer_s8x8_k400",
            "UNIFORMER.EMBED_DIM": list(TINY["dims"]),
            "UNIFORMER.DEPTH": list(TINY["depths"]),
            "UNIFORMER.HEAD_DIM": TINY["head_dim"],
            "MODEL.CHECKPOINT_NUM": [min(number, 1) for number in recomputed],
            "SOLVER.MAX_EPOCH": 1,
            "SOLVER.WARMUP_EPOCHS": 0,
        }
        output = tmp_path / "out put"
        environment = {
            "DATA_DIR": str(data.lists),
            "VIDEO_DIR": str(data.videos),
            "WEIGHTS_DIR": str(weights_dir),
            "OUTPUT_DIR": str(output),
            "SUBMIT": "",
        }
        overrides = [str(word) for pair in settings.items() for word in pair]
        return SmallRun(exp, output, environment, overrides, serve)

    return make
