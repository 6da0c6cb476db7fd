"""Checkpoints: what is written, what is refused, and which ones stay."""

import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slowfast.utils.checkpoint import load_checkpoint, read_header, save_checkpoint, save_weights
from slowfast.utils.checkpoint_files import (
    checkpoint_path,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = checkpoint_path(str(tmp_path), epoch=3)
    save_checkpoint(path, {"epoch": 3, "weights": {"a": torch.arange(5.0)}, "names": ["x"]})
    state = load_checkpoint(path)
    assert state["epoch"] == 3
    assert torch.equal(state["weights"]["a"], torch.arange(5.0))
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint_epoch_00003.pyth"]


def test_the_newest_is_that_of_the_last_epoch(tmp_path: Path) -> None:
    assert newest_checkpoint(str(tmp_path)) is None
    for epoch in (9, 100, 10):
        save_checkpoint(checkpoint_path(str(tmp_path), epoch=epoch), {"epoch": epoch})
    (tmp_path / "checkpoints/other.pyth").touch()
    newest = newest_checkpoint(str(tmp_path))
    assert newest is not None
    assert newest.name == "checkpoint_epoch_00100.pyth"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/checkpoint_epoch_00001.pyth"
    save_checkpoint(path, {"epoch": 1})

    class Unwritable:
        def __reduce__(self) -> str:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"epoch": 2, "x": Unwritable()})
    assert load_checkpoint(path) == {"epoch": 1}
    assert newest_checkpoint(str(tmp_path)) == path


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pyth"
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"x\.pyth: not a whole checkpoint"):
        load_checkpoint(path)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "x.pyth"
    torch.save({"model": Attack()}, path)
    with pytest.raises(
        ValueError, match=r"x\.pyth: not a whole checkpoint of tensors and plain data"
    ):
        load_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pyth: no such checkpoint"):
        load_checkpoint(tmp_path / "none.pyth")


def write_checkpoints(folder: Path, *positions: tuple[int, int]) -> None:
    for epoch, step in positions:
        save_checkpoint(checkpoint_path(str(folder), epoch=epoch, step=step), {"epoch": epoch})


def names_in(folder: Path) -> list[str]:
    return [
        path.stem.removeprefix("checkpoint_epoch_")
        for path in sorted((folder / "checkpoints").iterdir(), reverse=True)
    ]


def test_checkpoints_are_listed_by_epoch_and_step(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, (2, 0), (1, 500), (2, 9), (2, 10), (10, 0))
    names = [
        path.stem.removeprefix("checkpoint_epoch_") for path in list_checkpoints(str(tmp_path))
    ]
    assert names == [
        "00010",
        "00002_step_0000010",
        "00002_step_0000009",
        "00002",
        "00001_step_0000500",
    ]


def test_the_last_and_every_kth_checkpoint_survive_pruning(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, *((epoch, 0) for epoch in range(1, 12)))
    prune_checkpoints(list_checkpoints(str(tmp_path)), keep_last=0, keep_every=0)
    assert len(names_in(tmp_path)) == 11
    prune_checkpoints(list_checkpoints(str(tmp_path)), keep_last=3, keep_every=5)
    assert names_in(tmp_path) == ["00011", "00010", "00009", "00005"]
    prune_checkpoints(list_checkpoints(str(tmp_path)), keep_last=1, keep_every=0)
    assert names_in(tmp_path) == ["00011", "00010"], "one to fall back to"


def test_the_last_two_within_an_epoch_stay_until_it_ends(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, (3, 0), (3, 10), (3, 20), (3, 30))
    prune_checkpoints(list_checkpoints(str(tmp_path)), keep_last=1, keep_every=0)
    assert names_in(tmp_path) == ["00003_step_0000030", "00003_step_0000020", "00003"]
    write_checkpoints(tmp_path, (4, 0))
    prune_checkpoints(list_checkpoints(str(tmp_path)), keep_last=1, keep_every=0)
    assert names_in(tmp_path) == ["00004", "00003"]


def test_a_changed_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pyth"
    save_checkpoint(path, {"weights": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    offset = content.find(torch.arange(1000.0).numpy().tobytes())
    content[offset + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r"x\.pyth: not a whole checkpoint .*the checksum of its record .* is wrong",
    ):
        load_checkpoint(path)


ODD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda path: path.mkdir(), "is a folder, not a checkpoint file"),
    "loop": (lambda path: path.symlink_to(path), "is a link that leads back to itself"),
    "dangling": (
        lambda path: path.symlink_to("none.pyth"),
        "is a link to none.pyth, where no file is",
    ),
    "pipe": (lambda path: os.mkfifo(path), "is a pipe, socket or device, not a checkpoint file"),
    "device": (
        lambda path: path.symlink_to("/dev/zero"),
        "is a pipe, socket or device, not a checkpoint file",
    ),
}


@pytest.mark.parametrize("kind", ODD_FILES)
def test_an_entry_that_is_not_a_file_is_never_pruned(tmp_path: Path, kind: str) -> None:
    make, problem = ODD_FILES[kind]
    write_checkpoints(tmp_path, (1, 0), (2, 0), (3, 0))
    odd = [checkpoint_path(str(tmp_path), epoch=epoch) for epoch in (0, 9)]
    for path in odd:
        make(path)
    (tmp_path / "checkpoints/x.unfinished").mkdir()
    for read in (load_checkpoint, read_header):
        with pytest.raises(ValueError, match=rf"^{odd[1]}: {problem}"):
            read(odd[1])

    assert [path.stem[-1] for path in list_checkpoints(str(tmp_path))] == ["9", "3", "2", "1", "0"]
    prune_checkpoints(list_checkpoints(str(tmp_path)), keep_last=1, keep_every=0)
    # The two newest files stay, though an odd entry has a newer name.
    assert [path.stem[-1] for path in list_checkpoints(str(tmp_path))] == ["9", "3", "2", "0"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Folder that all users may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become a user who may not read the file"
)
def test_a_file_that_may_not_be_read_is_named(open_folder: Path) -> None:
    path = open_folder / "x.pyth"
    save_checkpoint(path, {"epoch": 1})
    path.chmod(0o600)
    (open_folder / "closed").mkdir(mode=0o700)

    os.seteuid(65534)
    try:
        with pytest.raises(
            PermissionError,
            match=rf"^{path}: cannot be read: .*\. Ask its owner to let you read it$",
        ):
            load_checkpoint(path)
        with pytest.raises(PermissionError, match=r"closed/y\.pyth: cannot be read"):
            load_checkpoint(open_folder / "closed/y.pyth")
    finally:
        os.seteuid(0)


def test_paths_to_keep_always_stay(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, *((epoch, 0) for epoch in range(1, 7)))
    first, third = (checkpoint_path(str(tmp_path), epoch=epoch) for epoch in (1, 3))
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    other_name = tmp_path / "elsewhere" / third.relative_to(tmp_path)
    prune_checkpoints(
        list_checkpoints(str(tmp_path)), keep_last=2, keep_every=0, keep=[first, other_name]
    )
    assert names_in(tmp_path) == ["00006", "00005", "00003", "00001"]


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become a user who may not delete the file"
)
def test_a_file_that_cannot_be_deleted_is_logged(
    open_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoints(open_folder, (1, 0), (2, 0), (3, 0))
    os.seteuid(65534)
    try:
        prune_checkpoints(list_checkpoints(str(open_folder)), keep_last=1, keep_every=0)
    finally:
        os.seteuid(0)
    assert names_in(open_folder) == ["00003", "00002", "00001"]
    assert "checkpoint_epoch_00001.pyth: cannot be deleted: Permission denied" in caplog.text


FULL_DISK = """
import sys, torch
from pathlib import Path
from slowfast.utils.checkpoint import load_checkpoint, save_checkpoint
folder = Path(sys.argv[1])
save_checkpoint(folder / "a.pyth", {"weights": torch.arange(100_000)})  # 800 kB
try:
    save_checkpoint(folder / "b.pyth", {"weights": torch.zeros(250_000)})  # 1 MB
except OSError as error:
    print(type(error).__name__, error.errno, error)
assert torch.equal(load_checkpoint(folder / "a.pyth")["weights"], torch.arange(100_000))
print(*sorted(path.name for path in folder.iterdir()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_called_full(tmp_path: Path, repository: Path) -> None:
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    command = ["unshare", "-m", "sh", "-c", f'{mount} || exit 77; exec "$@"', "sh"]
    command += [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, timeout=300)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this root may not mount a disk")

    said, names = done.stdout.splitlines()
    assert re.fullmatch(
        rf"OSError 28 {tmp_path}/b\.pyth: the checkpoint cannot be written: the disk is full "
        r"\([\d.]+ k?B free\), "
        r"and it needs 1\.0 MB. Older ones are whole\. Make room, keep fewer of them, "
        "or write to another disk, and start again",
        said,
    )
    assert names == "a.pyth"
    assert done.returncode == 0


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """Makes the kernel refuse files above 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files_only")
@pytest.mark.parametrize(
    ("num_bytes", "size"), [(110_000, "11. kB"), (400_000, "40. kB"), (10_000_000, "10 MB")]
)
def test_a_file_that_grows_too_large_leaves_the_older_one(
    tmp_path: Path, num_bytes: int, size: str
) -> None:
    path = tmp_path / "x.pyth"
    save_checkpoint(path, {"epoch": 1})
    message = (
        rf"x\.pyth: the checkpoint cannot be written: File too large, and it needs {size}. Older"
    )
    with pytest.raises(OSError, match=message):
        save_checkpoint(path, {"weights": torch.zeros(num_bytes, dtype=torch.uint8)})
    assert load_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.pyth"]


def test_a_header_is_the_content_without_tensors(tmp_path: Path) -> None:
    ones = torch.ones(3)
    state = {
        "epoch": 3,
        "model_state": {"a": ones},
        "optimizer_state": {
            "state": {0: {"step": ones, "name": "x"}},
            "param_groups": [{"lr": 0.1, "params": [0, 1]}],
        },
        "pair": (ones, 4, None),
        "class_names": ["ant"],
    }
    header = {
        "epoch": 3,
        "model_state": {},
        "optimizer_state": {
            "state": {0: {"name": "x"}},
            "param_groups": [{"lr": 0.1, "params": [0, 1]}],
        },
        "pair": [4, None],
        "class_names": ["ant"],
    }

    torch.save(state, tmp_path / "x.pyth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_header(tmp_path / "x.pyth") == read_header(tmp_path / "old.pth") == header
    save_weights(tmp_path / "x.safetensors", {"a": ones}, class_names=["ant"])
    assert read_header(tmp_path / "x.safetensors") == {"model_state": {}, "class_names": ["ant"]}


HEADER = """
import re, sys, torch
from slowfast.utils.checkpoint import read_header

def read_bytes():
    return int(re.search(r"rchar: (\\d+)", open("/proc/self/io").read())[1])

def most_memory():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

read_header(sys.argv[1])  # imports what the first use imports
open("/proc/self/clear_refs", "w").write("5")
before = read_bytes(), most_memory()
header = read_header(sys.argv[2])
print(header["epoch"], read_bytes() - before[0], most_memory() - before[1])
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux counts bytes and memory"
)
def test_a_header_of_a_large_file_needs_few_bytes(tmp_path: Path, repository: Path) -> None:
    small, large = tmp_path / "small.pyth", tmp_path / "large.pyth"
    for path, num_numbers in ((small, 10), (large, 50_000_000)):
        torch.save({"epoch": 7, "model_state": {"a": torch.ones(num_numbers)}}, path)
    assert large.stat().st_size > 200_000_000
    command = [sys.executable, "-c", HEADER, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, timeout=300)
    epoch, num_read, num_in_memory = map(int, done.stdout.split())
    large.unlink()
    assert epoch == 7
    assert num_read < 1_000_000
    assert num_in_memory < 10_000_000


@pytest.mark.parametrize("cut", [0, 1, 100, -1000, -1])
def test_a_header_of_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.pyth"
    save_checkpoint(path, {"epoch": 3, "weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        ValueError,
        match=r"x\.pyth: (not a whole checkpoint of|is not a checkpoint but an empty file)",
    ):
        read_header(path)


def test_a_header_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pyth"
    save_checkpoint(path, {"epoch": 3, "cfg": "A: 1", "weights": torch.zeros(1000)})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"A: 1", b"A: 2"))
    with pytest.raises(ValueError, match=r"x\.pyth: not a whole checkpoint .*CRC"):
        read_header(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_saved_weights_take_no_more_than_they_need(tmp_path: Path, suffix: str) -> None:
    whole = torch.arange(100_000.0)
    path = tmp_path / f"new/x{suffix}"
    save_weights(
        path,
        {"a": whole[:10], "b": whole[:10], "c": whole.reshape(100, 1000)[:2].T},
        class_names=[],
    )
    assert path.stat().st_size < 20_000
    weights = load_checkpoint(path)["model_state"]
    assert weights["a"].tolist() == weights["b"].tolist() == list(range(10))
    assert weights["c"][3].tolist() == [3, 1003]
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.sha256"]


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_the_content_of_a_file_counts_not_its_suffix(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x.pth" if kind == "safetensors" else "x.safetensors")
    if kind == "safetensors":
        save_weights(tmp_path / "y.safetensors", {"a": torch.ones(2)}, class_names=["ant"])
        (tmp_path / "y.safetensors").rename(path)
        assert load_file(path)["a"].tolist() == [1, 1]
    else:
        state = {"model_state": {"a": torch.ones(2)}, "class_names": ["ant"]}
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    assert load_checkpoint(path)["model_state"]["a"].tolist() == [1, 1]
    assert load_checkpoint(path)["class_names"] == ["ant"]
