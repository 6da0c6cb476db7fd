"""Each fault of a machine changes the line that names it, and no other."""

import importlib.abc
import os
import resource
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torchvision  # noqa: F401, here, so that the forked processes do not have to

from slowfast.datasets import resize
from slowfast.diagnosis.finding import FAILED, OK, WARNING, Finding
from slowfast.diagnosis.folders import check_output_folder
from slowfast.diagnosis.software import check_numba
from tests.diagnosis.machines import (
    NEW_MOUNTS,
    NEW_NETWORK,
    diagnose_after,
    make_read_only,
    mount_memory,
    separate,
)

Findings = dict[str, Finding]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Findings of this machine as it is, with caches of its own."""
    check_numba()  # Forked processes inherit what numba sets up for its first function.
    caches = tmp_path_factory.mktemp("caches")
    return diagnose_after(partial(use_caches, caches), output_dir=caches)


def use_caches(folder: Path) -> None:
    os.environ.pop("OMP_NUM_THREADS", None)
    for name in ("FVCORE_CACHE", "MPLCONFIGDIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
        os.environ[name] = str(folder / name)


def find_changes(healthy: Findings, broken: Findings) -> dict[str, str]:
    """Return the new status of each check that is not as on a healthy machine."""
    assert broken.keys() == healthy.keys()
    return {
        name: finding.status
        for name, finding in broken.items()
        if finding.status != healthy[name].status
    }


def diagnose_broken(break_something: Callable[[], None], folder: Path) -> Findings:
    def break_all() -> None:
        use_caches(folder)
        break_something()

    return diagnose_after(break_all, output_dir=folder)


def test_a_healthy_machine_has_no_failures(healthy: Findings) -> None:
    assert [finding for finding in healthy.values() if finding.status == FAILED] == []
    assert all(finding.text for finding in healthy.values())


def test_a_tiny_shared_memory_changes_its_line(healthy: Findings, tmp_path: Path) -> None:
    def break_something() -> None:
        separate(NEW_MOUNTS)
        mount_memory("/dev/shm", size="1m")

    broken = diagnose_broken(break_something, tmp_path)

    assert find_changes(healthy, broken) == {"shared memory": FAILED}
    assert "1.0 MB of 1.0 MB free in /dev/shm" in broken["shared memory"].text
    assert "--shm-size" in broken["shared memory"].remedy


def test_read_only_caches_change_their_lines(healthy: Findings, tmp_path: Path) -> None:
    def break_something() -> None:
        separate(NEW_MOUNTS)
        for name in ("FVCORE_CACHE", "MPLCONFIGDIR", "TRITON_CACHE_DIR"):
            Path(os.environ[name]).mkdir()
            make_read_only(Path(os.environ[name]))

    broken = diagnose_broken(break_something, tmp_path)

    names = ("download cache", "plot cache", "compile cache")
    assert find_changes(healthy, broken) == dict.fromkeys(names, WARNING)
    assert f"{tmp_path}/FVCORE_CACHE is not writable" in broken["download cache"].text


def test_a_read_only_package_changes_the_numba_cache(healthy: Findings, tmp_path: Path) -> None:
    def break_something() -> None:
        separate(NEW_MOUNTS)
        make_read_only(Path(resize.__file__).parent)
        Path(os.environ["XDG_CACHE_HOME"]).mkdir()
        Path(os.environ["XDG_CACHE_HOME"], "numba").write_text("a file, not a folder")

    broken = diagnose_broken(break_something, tmp_path)

    assert find_changes(healthy, broken) == {"numba cache": WARNING}
    assert "NUMBA_CACHE_DIR" in broken["numba cache"].remedy


class _Blocker(importlib.abc.MetaPathFinder):
    """Forbids the import of some modules."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname in self.names:
            raise ModuleNotFoundError(f"no module named {fullname}")


def test_missing_libraries_change_their_lines(healthy: Findings, tmp_path: Path) -> None:
    names = ("onnxscript", "timm")

    def break_something() -> None:
        for name in names:
            sys.modules.pop(name, None)
        sys.meta_path.insert(0, _Blocker(names))

    broken = diagnose_broken(break_something, tmp_path)

    assert find_changes(healthy | {"export": Finding(OK, "")}, broken) == {
        "export": WARNING,
        "libraries": FAILED,
    }
    assert "onnxscript" in broken["export"].text
    assert "[export]" in broken["export"].remedy
    assert broken["libraries"].text == "missing: timm"


def test_low_limits_change_their_lines(healthy: Findings, tmp_path: Path) -> None:
    def break_something() -> None:
        low = {"RLIMIT_NOFILE": 200, "RLIMIT_NPROC": 1000, "RLIMIT_FSIZE": 1 << 28}
        for name, limit in low.items():
            number = getattr(resource, name)
            resource.setrlimit(number, (limit, resource.getrlimit(number)[1]))

    broken = diagnose_broken(break_something, tmp_path)

    assert find_changes(healthy, broken) == {
        "open files": FAILED,
        "processes": WARNING,
        "other limits": WARNING,
    }
    assert broken["open files"].text.startswith("a process may open 200,")
    assert broken["open files"].remedy == "ulimit -n 1024"
    assert "the size of a file is limited to 268435456" in broken["other limits"].text


def test_a_blocked_loopback_changes_the_all_reduce(healthy: Findings, tmp_path: Path) -> None:
    broken = diagnose_broken(lambda: separate(NEW_NETWORK), tmp_path)

    assert find_changes(healthy, broken) == {"all-reduce": FAILED}
    assert "loopback" in broken["all-reduce"].remedy


def test_wrong_variables_change_their_lines(healthy: Findings, tmp_path: Path) -> None:
    def break_something() -> None:
        wrong = {"OMP_NUM_THREADS": "4096", "CXX": "no-such-compiler", "SLOWFAST_CACHE_GB": "much"}
        os.environ |= wrong

    broken = diagnose_broken(break_something, tmp_path)

    assert find_changes(healthy | {"compiler": Finding(OK, "")}, broken) == dict.fromkeys(
        ("threads", "compiler", "download cache"), WARNING
    )
    assert "OMP_NUM_THREADS=4096" in broken["threads"].text
    assert "no-such-compiler" in broken["compiler"].text
    assert broken["download cache"].text.startswith("SLOWFAST_CACHE_GB is 'much'")


def test_a_full_output_disk_changes_its_line(healthy: Findings, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()

    def break_something() -> None:
        use_caches(tmp_path)
        separate(NEW_MOUNTS)
        mount_memory(output, size="2m")

    broken = diagnose_after(break_something, output_dir=output / "run")

    assert find_changes(healthy, broken) == {"output folder": FAILED}
    assert broken["output folder"].text == f"2.1 MB free in {output}/run, too little"


def test_an_output_folder_that_is_a_file_fails(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    finding = check_output_folder(file / "run")

    assert (finding.status, finding.text) == (FAILED, f"{file} is not a folder")
    assert not (tmp_path / "run").exists()
