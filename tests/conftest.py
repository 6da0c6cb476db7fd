"""Shared fixtures: videos with painted frame numbers, small datasets, small configs and runs."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slowfast.config import CfgNode, load_cfg
from slowfast.distributed import collectives
from slowfast.preparation.encode import write_video
from slowfast.preparation.motion import make_motion
from tests.hub_server import Hub, running_hub

# No test reads the network or the cache of the user. `huggingface_hub` reads these once.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": os.devnull, "HF_TOKEN_PATH": os.devnull}
os.environ.pop("HF_TOKEN", None)

REPOSITORY = Path(__file__).parents[1]
QUICKSTART = REPOSITORY / "exp/quickstart/config.yaml"
NUM_BITS = 8  # of a painted frame number
FIRST = (
    "distributed/test_rendezvous.py",
    "distributed/test_launch.py",
    "engine/test_interruptions.py",
    "engine/test_resume.py",
    "engine/test_run_folder.py",
    "engine/test_choices.py",
    "slurm/test_interruptions.py",
    "slurm/test_lost_machines.py",
    "slurm/test_jobs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that the test processes end at the same time."""
    first = [REPOSITORY / "tests" / name for name in FIRST]
    items.sort(key=lambda item: first.index(item.path) if item.path in first else len(first))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Leave the other cores to the other test processes. Threads that wait for a core cost time."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what a run in this process does to logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt, here and in new processes.

    A shell makes a command that it starts with `&` ignore it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process believe that it computes on GPU 2 of 8. Nothing can be computed there."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(collectives, "_on_gpu", True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, for this process and those that it starts. It has no token yet."""
    from huggingface_hub import constants

    cache = tmp_path / "huggingface"
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HOME", str(cache))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        # The library reads its environment once, when it is imported.
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HOME", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        yield hub
        assert not hub.unknown


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def reference() -> Callable[[str], Any]:
    """Golden numbers by file name."""
    return lambda name: json.loads((REPOSITORY / "tests/reference" / f"{name}.json").read_text())


def paint_frames(num_frames: int) -> NDArray[np.uint8]:
    """Frames (T, 32, 128, 3) that show their number as 8 black or white bars."""
    bits = (np.arange(num_frames)[:, None] >> np.arange(NUM_BITS)) & 1
    rows = np.repeat(bits * 255, 16, axis=1).astype(np.uint8)  # (T, 128)
    return np.broadcast_to(rows[:, None, :, None], (num_frames, 32, 16 * NUM_BITS, 3)).copy()


@pytest.fixture(scope="session")
def write_painted() -> Callable[..., Path]:
    """Write a video, or JPEG files, of painted frames."""

    def write(path: Path, num_frames: int, *, fps: int = 25, **codec_options: str) -> Path:
        write_video(path, paint_frames(num_frames), fps=fps, codec_options=codec_options)
        return path

    return write


@pytest.fixture(scope="session")
def painted_number() -> Callable[[NDArray[np.uint8]], list[int]]:
    """The numbers that frames (T, 32, 128, 3) show."""

    def read(frames: NDArray[np.uint8]) -> list[int]:
        bars = frames[:, 16, 8::16].mean(axis=-1) > 127  # (T, 8)
        return (bars @ (1 << np.arange(NUM_BITS))).tolist()

    return read


@pytest.fixture(scope="session")
def motion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `motion` dataset: 32 videos to train on, 16 for validation, 24 to test."""
    folder = tmp_path_factory.mktemp("motion")
    make_motion(folder, seed=5, videos_per_class={"train": 4, "val": 2, "test": 3})
    return folder


# Rows in the lists of `broken_folder`, with the kind of damage and a pattern of its error.
BROKEN = {
    2: ("missing", "no such file"),
    5: ("empty", "invalid data found"),
    9: ("truncated", "invalid data found"),
    13: ("audio", "no video stream"),
    17: ("corrupt", r"\S.* \(at frame \d+\)"),
}


@pytest.fixture(scope="session")
def broken_rows() -> dict[int, tuple[str, str]]:
    """Rows in the lists of `broken_folder`, with the kind of damage and a pattern of its error."""
    return BROKEN


@pytest.fixture(scope="session")
def broken_folder(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 20 videos with five unreadable ones. All splits have the same list."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "classes.txt").write_text((motion_folder / "classes.txt").read_text())
    lines = (motion_folder / "test.csv").read_text().splitlines()[:20]
    rows = []
    for row, line in enumerate(lines):
        path, label = line.split(",")
        kind = BROKEN[row][0] if row in BROKEN else "good"
        rows.append(f"{kind} {row}.mp4,{label}\n")
        _copy_broken(motion_folder / path, folder / f"{kind} {row}.mp4", kind)
    for split in ("train", "val", "test"):
        (folder / f"{split}.csv").write_text("".join(rows))
    return folder


def _copy_broken(source: Path, target: Path, kind: str) -> None:
    content = bytearray(source.read_bytes())
    if kind == "audio":
        write_sound(target)
    elif kind == "empty":
        target.touch()
    elif kind == "truncated":
        target.write_bytes(content[: len(content) // 2])
    elif kind == "corrupt":
        with av.open(str(source)) as container:
            packets = [
                (packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size
            ]
        for position, size in packets[8:]:
            content[position + 8 : position + size] = bytes(size - 8)
        target.write_bytes(content)
    elif kind == "good":
        target.write_bytes(content)


def write_sound(path: Path) -> None:
    """Write an mp4 file without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def tiny_settings(motion_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """KEY VALUE pairs that shorten the quickstart to seconds. `SECTION__NAME=value` adds one."""

    def make(**overrides: Any) -> list[str]:
        settings: dict[str, Any] = {
            "DATA.PATH_TO_DATA_DIR": motion_folder,
            "DATA.PATH_PREFIX": motion_folder,
            "DATA.CLASS_NAMES": motion_folder / "classes.txt",
            "OUTPUT_DIR": tmp_path / "run",
            "TRAIN.BATCH_SIZE": 8,
            "TRAIN.EVAL_PERIOD": 2,
            "TRAIN.CHECKPOINT_PERIOD": 1,
            "TRAIN.REHEARSE": False,
            "TEST.BATCH_SIZE": 16,
            "TEST.NUM_ENSEMBLE_VIEWS": 2,
            "TEST.REPORT": False,  # it takes a second
            "DATA.NUM_FRAMES": 4,
            "DATA.TRAIN_CROP_SIZE": 32,
            "DATA.TEST_CROP_SIZE": 32,
            "DATA_LOADER.NUM_WORKERS": 0,
            "UNIFORMER.EMBED_DIM": "[8,8,16,16]",
            "UNIFORMER.DEPTH": "[1,1,1,1]",
            "UNIFORMER.HEAD_DIM": 8,
            "UNIFORMER.DROP_DEPTH_RATE": 0.1,
            "SOLVER.MAX_EPOCH": 2,
            "SOLVER.WARMUP_EPOCHS": 0,
            "LOG_PERIOD": 2,
        }
        settings |= {name.replace("__", "."): value for name, value in overrides.items()}
        return [str(word) for pair in settings.items() for word in pair]

    return make


@pytest.fixture
def tiny_cfg(tiny_settings: Callable[..., list[str]]) -> Callable[..., CfgNode]:
    """The config of such a run, with overrides."""
    return lambda **overrides: load_cfg(str(QUICKSTART), tiny_settings(**overrides))


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[int]]]:
    """Run tools/run_net.py, send a signal in a phase, and return the exit statuses."""
    server = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/engine/run_server.py"), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path_factory.mktemp("server"),
    )
    requests, answers = server.stdin, server.stdout
    assert requests is not None
    assert answers is not None

    def run(
        arguments: list[str],
        *,
        num_processes: int,
        signal: str = "",
        when: float | str = 0.0,
        output: Path | None = None,
        errors: Path | None = None,
        largest_file: int = 0,
        environment: dict[str, str] | None = None,
        ignored: str = "",
    ) -> list[int]:
        output = output or Path("run_server.log")
        request = {
            "arguments": arguments,
            "num_processes": num_processes,
            "signal": signal,
            "when": when,
            "output": str(output),
            "errors": str(errors or output),
            "largest_file": largest_file,
            "environment": environment or {},
            "ignored": ignored,
        }
        print(json.dumps(request), file=requests, flush=True)
        statuses: list[int] = json.loads(answers.readline())
        return statuses

    yield run
    # A loader worker may keep the pipe open, so closing it would not end the server.
    print("null", file=requests, flush=True)
    server.wait()


@pytest.fixture
def arguments(tiny_settings: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a run with 16 steps per epoch and every kind of randomness."""

    def make(folder: str, num_processes: int, **overrides: Any) -> list[str]:
        settings: dict[str, Any] = {
            "OUTPUT_DIR": tmp_path / folder,
            "NUM_GPUS": num_processes if num_processes > 1 else 0,
            "DIST_BACKEND": "gloo",
            "TRAIN__BATCH_SIZE": 2,
            "TEST__ENABLE": False,
            "AUG__ENABLE": True,
            "MIXUP__ENABLE": True,
            "MODEL__LOSS_FUNC": "soft_cross_entropy",
            "UNIFORMER__DROPOUT_RATE": 0.1,
            "TRAIN__EMA_DECAY": 0.99,
            "DATA_LOADER__NUM_WORKERS": 1 if num_processes == 1 else 0,
        }
        return ["--cfg", str(QUICKSTART), *tiny_settings(**(settings | overrides))]

    return make
