"""docs/extend.md: its files and commands work as they are printed."""

import importlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from slowfast.config import defaults
from slowfast.datasets import build as datasets
from slowfast.models import build as models
from slowfast.utils import plugins
from tests.docs.pages import ROOT, code_blocks, override_words

PAGE = (ROOT / "docs/extend.md").read_text()
PACKAGE = code_blocks(PAGE, "python")[0]
EXPERIMENT = code_blocks(PAGE, "yaml")[0]
TRAIN, CHECK = [command.strip() for command in code_blocks(PAGE, "bash")]

SMALL = {
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "DATA_LOADER.NUM_WORKERS": 0,
    "SOLVER.MAX_EPOCH": 1,
    "TENSORBOARD.ENABLE": False,
}

RunCommand = Callable[..., int]


@pytest.fixture
def project(repository: Path, motion_folder: Path, tmp_path: Path) -> Path:
    """Folder `my_project` of the page, beside the repository."""
    (tmp_path / "uniformer").symlink_to(repository)
    folder = tmp_path / "my_project"
    (folder / "my_package").mkdir(parents=True)
    (folder / "my_package/__init__.py").write_text(PACKAGE)
    (folder / "experiment.yaml").write_text(EXPERIMENT)

    (folder / "data").mkdir()
    names = (motion_folder / "classes.txt").read_text().splitlines()
    table = ["file,category,split"]
    for split in ("train", "val", "test"):
        for line in (motion_folder / f"{split}.csv").read_text().splitlines():
            path, label = line.split(",")
            table.append(f"{path},{names[int(label)]},{split}")
    (folder / "data/annotations.csv").write_text("\n".join(table) + "\n")

    for split in ("train", "val", "test"):
        shutil.copytree(motion_folder / split, folder / "data" / split)
    return folder


@pytest.fixture
def run_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunCommand]:
    """Function that runs a command of the page, with further arguments, in this process.

    Afterward, the process no longer knows what the command imported.
    """
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(plugins, "_imported", [])
    tables: list[dict[str, Any]] = [models.MODELS, datasets.DATASETS, defaults._C]
    known_names = [set(table) for table in tables]

    def run(command: str, *more: str) -> int:
        script, *arguments = shlex.split(command)[1:]
        status: int = runpy.run_path(script)["main"]([*arguments, *more])
        return status

    yield run

    for table, known in zip(tables, known_names, strict=True):
        for name in set(table) - known:
            del table[name]
    for name in list(sys.modules):
        if name.startswith(("my_package", "takes_")):
            del sys.modules[name]


def check_run(printed: str, project: Path) -> None:
    assert "MotionNet: 0.01 M parameters" in printed
    assert "anticlockwise" in printed
    assert "scored 24/24" in printed
    cfg = yaml.safe_load((project / "output/config.yaml").read_text())
    assert cfg["MOTION_NET"] == {"WIDTH": 32, "DROPOUT": 0.0}


def test_the_example_trains_and_is_tested(
    run_command: RunCommand,
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without it, the run would set the number of threads of this process for good.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    assert run_command(TRAIN, *override_words(SMALL | {"NUM_GPUS": 0})) == 0
    printed = capsys.readouterr().out
    assert "with 1 process on CPU" in printed
    check_run(printed, project)


@pytest.mark.zoo
def test_the_command_of_the_example_works_with_two_processes(project: Path) -> None:
    settings = SMALL | {"NUM_GPUS": 2, "DIST_BACKEND": "gloo"}
    command = [sys.executable, *shlex.split(TRAIN)[1:], *override_words(settings)]

    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=project)

    assert result.returncode == 0, result.stderr
    assert "with 2 processes on CPU" in result.stdout
    check_run(result.stdout, project)


# Only the package can read this address, so a process that has not imported it finds no videos.
HANDLER = """
from iopath.common.file_io import PathHandler
from slowfast.utils.paths import pathmgr

class Shelf(PathHandler):
    def _get_supported_prefixes(self):
        return ["shelf://"]

    def _get_local_path(self, path, force=False, **kwargs):
        return path.removeprefix("shelf:/")

    def _isfile(self, path, **kwargs):
        return True

pathmgr.register_handler(Shelf(), allow_override=True)
"""


@pytest.mark.zoo
def test_its_videos_are_checked_in_processes_that_import_it(
    run_command: RunCommand, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (project / "my_package/__init__.py").open("a") as file:
        file.write(HANDLER)
    assert run_command(CHECK, "NUM_GPUS", "0", "DATA.PATH_PREFIX", f"shelf:/{project}/data") == 0
    assert re.search(r"test +24 +24 +0", capfd.readouterr().out)


def test_problems_with_own_keys_are_reported_with_the_rest(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(TRAIN, "MOTION_NET.WIDTH", "0", "SOLVER.BASE_LR", "0") == 1
    message = capsys.readouterr().err
    assert "MOTION_NET.WIDTH is 0. Use a number above 0" in message
    assert "SOLVER.BASE_LR is 0" in message

    assert run_command(TRAIN, "MOTION_NET.WITH", "3") == 1
    assert (
        "MOTION_NET.WITH is not a key. The nearest is MOTION_NET.WIDTH" in capsys.readouterr().err
    )


def test_without_the_package_its_keys_are_unknown(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(TRAIN.replace("--import my_package", "")) == 1
    assert "MOTION_NET.WIDTH is not a key" in capsys.readouterr().err


def install_package(site: Path) -> Path:
    """Write the metadata of an installed package with the entry point of the page."""
    found = re.search(r'entry_points={"(.+?)": \["(.+?)"\]}', PAGE)
    assert found
    metadata = site / "my_package-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{found[1]}]\n{found[2]}\n")
    return site


def test_an_installed_package_needs_no_option(
    run_command: RunCommand,
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = install_package(project.parent / "site-packages")
    monkeypatch.syspath_prepend(site)
    command = TRAIN.replace("--import my_package", "--print-config")

    (project / "my_package").rename(site / "hidden")
    assert run_command(command) == 1
    message = capsys.readouterr().err
    assert (
        "error: the entry point 'my_package' of my-package: there is no module my_package. Install"
        in message
    )

    (site / "hidden").rename(site / "my_package")
    importlib.invalidate_caches()
    assert run_command(command) == 0
    assert yaml.safe_load(capsys.readouterr().out)["MOTION_NET"]["WIDTH"] == 32


USE_MODELS = "from slowfast.models import build as models\n"
USE_DATASETS = "from slowfast.datasets import build as datasets\n"
USE_CONFIG = "from slowfast.config import add_section\n"
WRONG_MODULES = {
    "takes_model": f"{USE_MODELS}models.add_model('r3d_18', None)\n",
    "takes_data": f"{USE_DATASETS}datasets.add_dataset('kinetics', None)\n",
    "takes_keys": f"{USE_CONFIG}add_section('MODEL', {{'WIDTH': 1}})\n",
    "takes_retired_key": f"{USE_CONFIG}add_section('LOG_MODEL_INFO', {{'WIDTH': 1}})\n",
    "takes_lower_case": f"{USE_CONFIG}add_section('NET', {{'width': 1}})\n",
    "takes_a_set": f"{USE_CONFIG}add_section('NET', {{'WIDTH': {{1}}}})\n",
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_package",
            "there is no module no_package. Install it, add its folder to PYTHONPATH, "
            "or start in the folder",
        ),
        ("my_package.nothing", "there is no module my_package.nothing. Install it"),
        ("my_package/__init__.py", "give the name of a module, as after `import`, not a path"),
        ("takes_model", "a model 'r3d_18' already exists. Choose another name."),
        ("takes_data", "there is already a dataset 'kinetics'. Choose another name"),
        ("takes_keys", "there is a config section or key MODEL already. Choose another name"),
        (
            "takes_retired_key",
            "there is a config section or key LOG_MODEL_INFO already. Choose another name",
        ),
        (
            "takes_lower_case",
            "the config section NET has the name 'width'. Use upper case, digits and _",
        ),
        (
            "takes_a_set",
            "NET.WIDTH is {1} by default. Use a string, a number, a bool, a list or None",
        ),
    ],
)
def test_a_package_that_cannot_be_imported_ends_in_one_message(
    run_command: RunCommand,
    project: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    message: str,
) -> None:
    if name in WRONG_MODULES:
        (project / f"{name}.py").write_text(WRONG_MODULES[name])
    assert run_command(TRAIN, "--import", name) == 1
    assert capsys.readouterr().err.startswith(f"error: --import {name}: {message}")


def test_a_module_missing_inside_the_package_is_named_by_python(
    run_command: RunCommand, project: Path
) -> None:
    (project / "takes_more.py").write_text("import not_installed\n")
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_installed'"):
        run_command(TRAIN, "--import", "takes_more")


def test_own_lists_become_lists_of_ours(
    run_command: RunCommand, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        "python ../uniformer/tools/prepare_data.py lists --annotations data --videos data lists"
        " MODEL.NUM_CLASSES 8"
    )

    assert run_command(command, "--dataset", "one_table", "--import", "my_package") == 0
    assert (project / "lists/test.csv").read_text().count("\n") == 24

    assert run_command(command, "--dataset", "two_tables", "--import", "my_package") == 2
    assert "--dataset is 'two_tables'. Choose from kinetics, " in capsys.readouterr().err
