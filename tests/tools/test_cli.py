"""All tools use the package of their own checkout, start without slow imports and report errors."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOOLS = sorted(path.name for path in (Path(__file__).parents[2] / "tools").glob("[!_]*.py"))
Python = Callable[..., "subprocess.CompletedProcess[str]"]


def copy_checkout(repository: Path, root: Path) -> None:
    for name in ("slowfast", "tools", "benchmarks"):  # with the caches of Python and numba
        shutil.copytree(repository / name, root / name)
    (root / "slowfast/__init__.py").write_text(f"__version__ = {root.name!r}\n")


@pytest.fixture
def checkouts(repository: Path, tmp_path: Path) -> Path:
    """A folder with two checkouts: A, which counts as installed, and `my B`."""
    for name in ("A", "my B"):
        copy_checkout(repository, tmp_path / name)
    return tmp_path


@pytest.fixture
def python(checkouts: Path) -> Python:
    """Run Python in the folder of A, with A on PYTHONPATH."""

    def run(
        *arguments: str | Path, cwd: Path = checkouts / "A", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        env |= {"PYTHONPATH": str(checkouts / "A"), "OMP_NUM_THREADS": "1", **environment}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300
        )

    return run


def leave_at_import(root: Path) -> None:
    """Let the package of a checkout end the process that imports it, with its version."""
    (root / "slowfast/__init__.py").write_text(f"raise SystemExit('it is {root.name}')\n")


@pytest.fixture
def exiting_checkouts(checkouts: Path) -> Path:
    """Two checkouts whose packages end the process that imports them, so torch is not imported."""
    for name in ("A", "my B"):
        leave_at_import(checkouts / name)
    return checkouts


@pytest.mark.parametrize("name", TOOLS)
def test_each_tool_imports_the_package_beside_it(
    exiting_checkouts: Path, python: Python, name: str
) -> None:
    done = python(exiting_checkouts / "my B/tools" / name)
    assert done.stderr == "it is my B\n"


HEAVY_MODULES = """
import runpy, sys
tool, *options = sys.argv[1:]
for option in options:
    sys.argv = [tool, option]
    try:
        runpy.run_path(tool, run_name="__main__")
    except SystemExit as exit:
        print("status", exit.code)
print(*sorted({"av", "numba", "numpy", "pyarrow", "timm", "torch", "torchvision"} & {*sys.modules}))
"""


@pytest.mark.parametrize("name", TOOLS)
def test_help_and_wrong_usage_import_nothing_heavy(repository: Path, name: str) -> None:
    tool = str(repository / "tools" / name)
    command = [sys.executable, "-c", HEAVY_MODULES, tool, "--help", "--no-such-option"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    *_, after_help, after_wrong_usage, heavy = done.stdout.splitlines()
    assert (after_help, after_wrong_usage) == ("status 0", "status 2")
    assert heavy == ""
    assert "Traceback" not in done.stderr


def test_benchmarks_import_the_package_beside_them(exiting_checkouts: Path, python: Python) -> None:
    folder = exiting_checkouts / "my B/benchmarks"
    assert python(folder / "annotations.py").stderr == "it is my B\n"
    # The others take seconds to import torch first, but begin in the same way.
    folder_of_tools = 'str(Path(__file__).resolve().parents[1] / "tools")'
    start = f"sys.path.insert(0, {folder_of_tools})\nimport _checkout  #"
    for path in folder.glob("*.py"):
        before, imports, after = path.read_text().partition("\nfrom slowfast")
        is_command = 'if __name__ == "__main__"' in after
        assert start in before or not is_command or not imports, path


def test_a_tool_may_be_started_in_any_way(exiting_checkouts: Path, python: Python) -> None:
    root = exiting_checkouts / "my B"
    tool = root / "tools/make_motion.py"
    (exiting_checkouts / "link").symlink_to(root / "tools")
    (exiting_checkouts / "linked.py").symlink_to(tool)
    shutil.copytree(root / "tools", exiting_checkouts / "alone")
    by_path = f"import runpy; runpy.run_path({str(tool)!r}, run_name='__main__')"
    ways: list[tuple[str | Path, ...]] = [
        ("tools/make_motion.py",),
        ("-m", "tools.make_motion"),
        ("-P", "tools/make_motion.py"),
        (exiting_checkouts / "link/make_motion.py",),
        (exiting_checkouts / "linked.py",),
        ("-c", by_path),
    ]
    for way in ways:
        assert python(*way, cwd=root).stderr == "it is my B\n", way
    # Tools without a package beside them use the installed one, here on PYTHONPATH.
    assert python(exiting_checkouts / "alone/make_motion.py").stderr == "it is A\n"


def test_a_package_imported_before_the_tool_is_named(checkouts: Path, python: Python) -> None:
    for name, note in (("A", True), ("my B", False)):
        code = (
            "import runpy, sys; sys.path.insert(0, sys.argv[2]); import slowfast\n"
            "try: runpy.run_path(sys.argv[1])\n"
            "except ImportError: pass\n"
        )
        (checkouts / name / "slowfast/datasets/build.py").write_text("raise ImportError\n")
        done = python("-c", code, checkouts / "my B/tools/make_motion.py", checkouts / name)
        expected = (
            f"note: {checkouts}/A/slowfast was imported before this tool and runs instead of "
            f"{checkouts}/my B/slowfast\n"
        )
        assert done.stderr == (expected if note else "")


PROBE = """
import multiprocessing, os, sys
import slowfast
from slowfast.engine import train
is_rank = multiprocessing.parent_process() is not None or "TORCHELASTIC_RUN_ID" in os.environ
with open(os.environ["SAID"], "a") as file:
    file.write(f"{is_rank} {slowfast.__version__} {train.__file__}\\n")
if is_rank:
    sys.exit(0)
"""


@pytest.mark.parametrize("launcher", ["spawn", "torchrun"])
def test_all_processes_of_a_job_use_one_checkout(
    checkouts: Path,
    python: Python,
    repository: Path,
    tiny_settings: Callable[..., list[str]],
    launcher: str,
) -> None:
    said = checkouts / "said"
    (checkouts / "A/probe.py").write_text(PROBE)  # in the working directory, not tools/probe.py
    prefix = [] if launcher == "spawn" else ["-m", "torch.distributed.run", "--standalone"]
    prefix += [] if launcher == "spawn" else ["--nproc-per-node=1"]
    config = repository / "exp/quickstart/config.yaml"
    arguments = ["--cfg", str(config), "--import", "probe", *tiny_settings(DIST_BACKEND="gloo")]
    arguments += ["NUM_GPUS", "2"]
    done = python(*prefix, checkouts / "my B/tools/run_net.py", *arguments, SAID=str(said))
    assert done.returncode == 0, done.stderr
    lines = said.read_text().splitlines()
    theirs = f"my B {checkouts}/my B/slowfast/engine/train.py"
    expected = {"spawn": ["False", "True", "True"], "torchrun": ["True"]}[launcher]
    assert sorted(lines) == [f"{is_rank} {theirs}" for is_rank in expected]


def test_workers_of_a_server_use_the_checkout_of_the_tool(
    checkouts: Path, python: Python, write_painted: Callable[..., Path]
) -> None:
    leave_at_import(checkouts / "A")
    # Before Python 3.11, the server searches the current folder first.
    folder = checkouts / "A" if sys.version_info >= (3, 11) else checkouts
    (folder / "videos").mkdir()
    write_painted(folder / "videos/a.mkv", 10)

    tool = checkouts / "my B/tools/prepare_data.py"
    done = python(tool, "resize", "videos", "small", "--workers", "1", cwd=folder)
    assert done.stdout == "small: 1 video, 1 resized\n", done.stderr


def test_a_job_uses_the_copy_of_the_checkout(
    checkouts: Path, python: Python, repository: Path, tiny_settings: Callable[..., list[str]]
) -> None:
    said = checkouts / "said"
    (checkouts / "A/probe.py").write_text(PROBE)
    arguments = ["--cfg", str(repository / "exp/quickstart/config.yaml"), "--import", "probe"]
    arguments += ["--cluster", "local", "--follow", *tiny_settings(DIST_BACKEND="gloo")]
    arguments += ["DATA.CLASS_NAMES", "/none"]
    done = python(checkouts / "my B/tools/submit.py", *arguments, SAID=str(said))
    assert done.returncode == 1
    assert "/none" in done.stderr
    (code,) = checkouts.glob("run/jobs/*/code")
    expected = {
        f"False my B {root}/slowfast/engine/train.py" for root in (checkouts / "my B", code)
    }
    assert set(said.read_text().splitlines()) == expected


def test_errors_are_printed_without_class_names(python: Python, checkouts: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from slowfast.commands import cli\n"
        "for cause in (ValueError('A\\x1b is 1'), cli.UsageError('--a is 1'), TimeoutError(),\n"
        "              KeyboardInterrupt('x')):\n"
        "    print(cli.report(cause))\n"
        "for path in ('no such', b'no\\xff', 3):\n"
        "    try: os.stat(path) if path != 3 else os.fstat(99)\n"
        "    except OSError as error: cli.report(error)\n"
        "try: os.rename('no', 'where')\n"
        "except OSError as error: cli.report(error)\n"
    )
    done = python("-c", code, checkouts / "my B")
    assert done.stdout.splitlines() == ["1", "2", "1", "1"]
    assert done.stderr.splitlines() == [
        "error: A\\x1b is 1",
        "error: --a is 1",
        "error: TimeoutError",
        "error: x",
        "error: no such: No such file or directory",
        "error: no\\udcff: No such file or directory",
        "error: [Errno 9] Bad file descriptor",
        "error: [Errno 2] No such file or directory: 'no' -> 'where'",
    ]


ERRORS = """
import os, sys
before = dict(os.environ)
sys.path.insert(0, sys.argv[1])
from slowfast.commands import cli
assert os.environ == before

def fail(error):
    raise error

for error in (ValueError("A is 1"), FloatingPointError("NaN"), cli.UsageError("--b is 1")):
    print(cli.run(lambda: fail(error)))
print(cli.run(lambda: fail(KeyboardInterrupt()), interrupted="resume it"))
print(cli.run(lambda: 3))
cli.run(lambda: fail(AssertionError("a bug")))
"""


def test_each_kind_of_error_has_its_exit_status(repository: Path) -> None:
    command = [sys.executable, "-c", ERRORS, str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1", "1", "2", "130", "3"]
    printed = done.stderr.splitlines()
    assert printed[:5] == ["error: A is 1", "error: NaN", "error: --b is 1", "", "resume it"]
    assert printed[5].startswith("Traceback")
    assert printed[-1] == "AssertionError: a bug"
