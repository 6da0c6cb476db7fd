import os
from pathlib import Path

import pytest
import torch

from slowfast.utils.checkpoint import checkpoint_path, load_checkpoint, newest_checkpoint, save_checkpoint


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
