"""Imports run without garbage collection, and their objects are not collected later."""

import gc
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from slowfast.utils.garbage import postponed_collection


@pytest.fixture(autouse=True)
def nothing_stays_frozen() -> Iterator[None]:
    """Undo what a test freezes."""
    yield
    gc.unfreeze()


def test_imported_objects_are_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_a_test.py").write_text("numbers = [[number] for number in range(1000)]")
    monkeypatch.syspath_prepend(tmp_path)
    gc.unfreeze()

    with postponed_collection():
        assert not gc.isenabled()
        import_module("module_of_a_test")
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000


def test_without_an_import_nothing_is_frozen() -> None:
    frozen = gc.get_freeze_count()
    with postponed_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_collection_goes_on_after_a_failed_import() -> None:
    with pytest.raises(ModuleNotFoundError), postponed_collection():
        import_module("no_such_module")
    assert gc.isenabled()


def test_disabled_collection_stays_disabled() -> None:
    gc.disable()
    try:
        with postponed_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
