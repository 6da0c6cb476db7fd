"""Fixtures of the tests of the demo: trained models of several kinds, and a server of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import slowfast
from slowfast.config import load_cfg
from tests.inference.conftest import save_random_checkpoint
from tests.serving.running_server import ROOT, RunningServer, running_server

CLIPS = {
    "NUM_GPUS": 0,
    "TEST.NUM_ENSEMBLE_VIEWS": 2,
    "TEST.NUM_SPATIAL_CROPS": 1,
    "DATA.NUM_FRAMES": 4,
    "DATA.SAMPLING_RATE": 3,
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "MODEL.NUM_CLASSES": 8,
}
SMALL = {
    "UNIFORMER.EMBED_DIM": "[8,8,16,16]",
    "UNIFORMER.DEPTH": "[1,1,1,1]",
    "UNIFORMER.HEAD_DIM": 8,
}
LIGHT = {
    **SMALL,
    "MODEL.MODEL_NAME": "Uniformer_light_ls_fp32",
    "UNIFORMER.DEPTH": "[1,1,2,1]",
    "DATA.TRAIN_CROP_SIZE": 64,
    "DATA.TEST_CROP_SIZE": 64,
    "TEST.DATASET": "kinetics_sparse",
}
BASELINE = {"TRAIN.DATASET": "kinetics", "TEST.DATASET": "kinetics", "DATA.TEST_SHORT_SIDE": 32}
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "uniformer": ("exp/quickstart/config.yaml", {**SMALL}),
    "light": ("exp/quickstart/config.yaml", {**LIGHT}),
    "r3d_18": ("configs/models/r3d_18.yaml", {**BASELINE}),
}


@pytest.fixture(scope="session")
def models(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run of UniFormer, one of a light model, one of a baseline, and an exported folder."""
    folder = tmp_path_factory.mktemp("models")
    for name, (config, settings) in MODELS.items():
        entries = {
            **CLIPS,
            **settings,
            "DATA.PATH_TO_DATA_DIR": motion_folder,
            "DATA.PATH_PREFIX": motion_folder,
            "DATA.CLASS_NAMES": motion_folder / "classes.txt",
            "OUTPUT_DIR": folder / name,
        }
        words = [str(word) for pair in entries.items() for word in pair]
        save_random_checkpoint(load_cfg(str(ROOT / config), words))
    slowfast.load(folder / "uniformer").save(folder / "exported")
    return [folder / name for name in ("uniformer", "light", "r3d_18", "exported")]


@pytest.fixture(scope="session")
def server(
    models: list[Path], motion_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server of all models with small limits."""
    folder = tmp_path_factory.mktemp("server")
    examples = sorted((motion_folder / "test").glob("left_*.mp4"))
    limits = ("--max-megabytes", "1", "--max-seconds", "20")
    with running_server(folder, *models, *limits, "--examples", *examples) as started:
        yield started
        log = (folder / "log").read_text()
        assert "serving/" not in log, log  # gradio prints what it refuses itself
