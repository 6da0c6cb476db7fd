"""Fixtures of the tests of the engine: runs, faults and process groups."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from slowfast.config import CfgNode, default_cfg
from slowfast.engine.train import train

Copies = dict[str, Path]
SERVE_OPTIONS = {"environment", "largest_file", "signal", "when"}


@pytest.fixture
def rank_0_of_2() -> Iterator[None]:
    """Make this process rank 0 of two processes. Its collectives send nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.fixture
def rank_0_of_1() -> Iterator[None]:
    """Make this process a job of one process, with real collectives."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def cfg_with() -> Callable[..., CfgNode]:
    """The default config with some settings, such as `SECTION__NAME=value`."""

    def merge(**settings: Any) -> CfgNode:
        cfg = default_cfg()
        for name, value in settings.items():
            cfg.merge_from_list([name.replace("__", "."), value])
        return cfg

    return merge


@pytest.fixture
def smooth_cfg(tiny_cfg: Callable[..., CfgNode]) -> CfgNode:
    """A config with 8 videos per step and nothing random inside the model."""
    return tiny_cfg(UNIFORMER__DROP_DEPTH_RATE=0.0, SOLVER__CLIP_GRADIENT=0, TRAIN__AMP="off")


@pytest.fixture(scope="session")
def copies_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """Copies of finished runs, by their settings. It is empty at first."""
    return {"": tmp_path_factory.mktemp("copies of runs")}


@pytest.fixture
def make_once(copies_of_runs: Copies, tmp_path: Path) -> Callable[..., Path]:
    """Make a folder in `tmp_path`. The next time, copy what was made for the same key."""

    def make_once(folder: str, *, key: str, make: Callable[[], object]) -> Path:
        path = tmp_path / folder
        if key in copies_of_runs:
            shutil.copytree(copies_of_runs[key], path)
            return path

        make()
        copies_of_runs[key] = copies_of_runs[""] / str(len(copies_of_runs))
        shutil.copytree(path, copies_of_runs[key])
        return path

    return make_once


@pytest.fixture
def trained_cfg(
    tiny_cfg: Callable[..., CfgNode], make_once: Callable[..., Path], tmp_path: Path
) -> Callable[..., CfgNode]:
    """The config of a finished training in its OUTPUT_DIR. Equal trainings run only once."""

    def provide(*, folder: str = "run", **overrides: Any) -> CfgNode:
        cfg = tiny_cfg(OUTPUT_DIR=tmp_path / folder, **overrides)
        make_once(folder, key=f"trained {sorted(overrides.items())}", make=lambda: train(cfg))
        return cfg

    return provide


@pytest.fixture
def start(
    serve: Callable[..., list[int]], arguments: Callable[..., list[str]], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Start a run of 4 steps per epoch in a folder. Return its exit status and what it printed.

    Options are settings such as `SECTION__NAME=value` and options of `serve`.
    """
    output = tmp_path / "output of start"

    def start(*, folder: str = "run", **options: Any) -> tuple[int, str]:
        of_serve = {name: options.pop(name) for name in SERVE_OPTIONS & options.keys()}
        output.unlink(missing_ok=True)
        defaults: dict[str, Any] = {
            "TRAIN__BATCH_SIZE": 8,
            "SOLVER__MAX_EPOCH": 1,
            "DATA_LOADER__NUM_WORKERS": 0,
        }
        command = arguments(folder, 1, **(defaults | options))
        [status] = serve(command, num_processes=1, output=output, **of_serve)
        return status, output.read_text()

    return start


@pytest.fixture
def finish(
    start: Callable[..., tuple[int, str]], make_once: Callable[..., Path]
) -> Callable[..., Path]:
    """Finish a run with `start`, and return its folder. Equal runs are trained only once."""

    def finish(*, folder: str = "run", **settings: Any) -> Path:
        def train() -> None:
            status, printed = start(folder=folder, **settings)
            assert status == 0, printed

        return make_once(folder, key=f"started {sorted(settings.items())}", make=train)

    return finish


@pytest.fixture
def faulty_arguments(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> Callable[..., list[str]]:
    """Arguments of a run of two epochs whose model has a fault, see the plugin `faulty_model`."""

    def make(*, num_processes: int = 1, **fault: Any) -> list[str]:
        settings = {f"FAULTY__{name.upper()}": value for name, value in fault.items()}
        settings |= {
            "MODEL__MODEL_NAME": "Faulty",
            "FAULTY__FOLDER": tmp_path,
            "SOLVER__MAX_EPOCH": 2,
        }
        return ["--import", "faulty_model", *arguments("run", num_processes, **settings)]

    return make
