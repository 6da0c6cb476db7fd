import os
from pathlib import Path

import pytest
import torch

from slowfast.utils.checkpoint import (
    checkpoint_path,
    checkpoints_of,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
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
    with pytest.raises(ValueError, match=r"x\.pyth: not a whole checkpoint of tensors and plain data"):
        load_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pyth: no such checkpoint"):
        load_checkpoint(tmp_path / "none.pyth")


def write_checkpoints(folder: Path, *places: tuple[int, int]) -> None:
    for epoch, step in places:
        save_checkpoint(checkpoint_path(str(folder), epoch=epoch, step=step), {"epoch": epoch})


def names_in(folder: Path) -> list[str]:
    return [
        path.stem.removeprefix("checkpoint_epoch_") for path in sorted((folder / "checkpoints").iterdir(), reverse=True)
    ]


def test_checkpoints_are_in_the_order_of_epoch_and_step(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, (2, 0), (1, 500), (2, 9), (2, 10), (10, 0))
    assert [path.stem.removeprefix("checkpoint_epoch_") for path in checkpoints_of(str(tmp_path))] == [
        "00010",
        "00002_step_0000010",
        "00002_step_0000009",
        "00002",
        "00001_step_0000500",
    ]


def test_old_checkpoints_are_pruned_but_for_the_last_and_every_kth(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, *((epoch, 0) for epoch in range(1, 12)))
    prune_checkpoints(str(tmp_path), keep_last=0, keep_every=0)
    assert len(names_in(tmp_path)) == 11
    prune_checkpoints(str(tmp_path), keep_last=3, keep_every=5)
    assert names_in(tmp_path) == ["00011", "00010", "00009", "00005"]
    prune_checkpoints(str(tmp_path), keep_last=1, keep_every=0)
    assert names_in(tmp_path) == ["00011", "00010"], "one to fall back to"


def test_of_checkpoints_within_epochs_the_last_two_are_kept_until_the_epoch_ends(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, (3, 0), (3, 10), (3, 20), (3, 30))
    (tmp_path / "checkpoints/checkpoint_epoch_00003_step_0000040.unfinished").touch()  # of a process that was killed
    prune_checkpoints(str(tmp_path), keep_last=1, keep_every=0)
    assert names_in(tmp_path) == ["00003_step_0000030", "00003_step_0000020", "00003"]
    write_checkpoints(tmp_path, (4, 0))
    prune_checkpoints(str(tmp_path), keep_last=1, keep_every=0)
    assert names_in(tmp_path) == ["00004", "00003"]


def test_a_changed_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pyth"
    save_checkpoint(path, {"weights": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    place = content.find(torch.arange(1000.0).numpy().tobytes())
    content[place + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pyth: not a whole checkpoint .*the checksum of its part .* is wrong"):
        load_checkpoint(path)
