"""docs/extend.md keeps its word: its files and commands are used as they stand there."""

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

PAGE = Path(__file__).parents[2] / "docs/extend.md"
SMALL = {
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "DATA_LOADER.NUM_WORKERS": 0,
    "SOLVER.MAX_EPOCH": 1,
    "TENSORBOARD.ENABLE": False,
}
Main = Callable[..., int]


def words(settings: dict[str, Any]) -> list[str]:
    return [str(part) for pair in settings.items() for part in pair]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


TRAIN, CHECK = [command.strip() for command in blocks("bash")]


@pytest.fixture
def project(repository: Path, motion_folder: Path, tmp_path: Path) -> Path:
    """The folder `my_project` of the page, beside the repository."""
    (tmp_path / "uniformer").symlink_to(repository)
    folder = tmp_path / "my_project"
    (folder / "my_package").mkdir(parents=True)
    (folder / "my_package/__init__.py").write_text(blocks("python")[0])
    (folder / "experiment.yaml").write_text(blocks("yaml")[0])
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
def main(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Main]:
    """Run a command of the page, with further arguments, in this process; what was imported is forgotten afterwards."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(plugins, "_imported", [])
    tables: list[dict[str, Any]] = [models.MODELS, datasets.DATASETS, defaults._C]
    names = [set(table) for table in tables]
    yield lambda command, *more: runpy.run_path(shlex.split(command)[1])["main"](
        [*shlex.split(command)[2:], *more]
    )
    for table, known in zip(tables, names, strict=True):
        for name in set(table) - known:
            del table[name]
    for name in [name for name in sys.modules if name.startswith(("my_package", "takes_"))]:
        del sys.modules[name]


def check_run(printed: str, project: Path) -> None:
    assert "MotionNet: 0.01 M parameters" in printed
    assert "anticlockwise" in printed
    assert "scored 24/24" in printed
    cfg = yaml.safe_load((project / "output/config.yaml").read_text())
    assert cfg["MOTION_NET"] == {"WIDTH": 32, "DROPOUT": 0.0}


def test_the_example_trains_and_is_tested(
    main: Main, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # else the run sets how many threads this process has from now on
    assert main(TRAIN, *words(SMALL | {"NUM_GPUS": 0})) == 0
    printed = capsys.readouterr().out
    assert "with 1 process on CPU" in printed
    check_run(printed, project)


@pytest.mark.zoo
def test_the_command_of_the_example_works_with_two_processes(project: Path) -> None:
    command = [
        sys.executable,
        *shlex.split(TRAIN)[1:],
        *words(SMALL | {"NUM_GPUS": 2, "DIST_BACKEND": "gloo"}),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=project)
    assert result.returncode == 0, result.stderr
    assert "with 2 processes on CPU" in result.stdout
    check_run(result.stdout, project)


# An address that only the package can read: a process that has not imported it finds no videos.
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
def test_its_videos_are_checked_in_processes_that_know_it_too(
    main: Main, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (project / "my_package/__init__.py").open("a") as file:
        file.write(HANDLER)
    assert main(CHECK, "NUM_GPUS", "0", "DATA.PATH_PREFIX", f"shelf:/{project}/data") == 0
    assert re.search(r"test +24 +24 +0", capfd.readouterr().out)


def test_what_is_wrong_with_keys_of_ones_own_is_reported_with_the_rest(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(TRAIN, "MOTION_NET.WIDTH", "0", "SOLVER.BASE_LR", "0") == 1
    message = capsys.readouterr().err
    assert "MOTION_NET.WIDTH is 0; use a number above 0" in message
    assert "SOLVER.BASE_LR is 0" in message
    assert main(TRAIN, "MOTION_NET.WITH", "3") == 1
    assert (
        "MOTION_NET.WITH is not a key; the nearest is MOTION_NET.WIDTH" in capsys.readouterr().err
    )


def test_without_the_package_its_keys_are_unknown(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(TRAIN.replace("--import my_package", "")) == 1
    assert "MOTION_NET.WIDTH is not a key" in capsys.readouterr().err


def test_an_installed_package_needs_no_option(
    main: Main, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = re.search(r'entry_points={"(.+?)": \["(.+?)"\]}', PAGE.read_text())
    assert found
    site = project.parent / "site-packages"
    (site / "my_package-1.0.dist-info").mkdir(parents=True)
    (site / "my_package-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n"
    )
    (site / "my_package-1.0.dist-info/entry_points.txt").write_text(f"[{found[1]}]\n{found[2]}\n")
    monkeypatch.syspath_prepend(site)
    command = TRAIN.replace("--import my_package", "--print-config")
    (project / "my_package").rename(site / "hidden")
    assert main(command) == 1
    message = capsys.readouterr().err
    assert (
        "error: the entry point 'my_package' of my-package: there is no module my_package; install"
        in message
    )
    (site / "hidden").rename(site / "my_package")
    importlib.invalidate_caches()
    assert main(command) == 0
    assert yaml.safe_load(capsys.readouterr().out)["MOTION_NET"]["WIDTH"] == 32


WRONG = {
    "takes_model": "from slowfast.models import build as models\nmodels.add_model('r3d_18', None)\n",
    "takes_data": "from slowfast.datasets import build as datasets\ndatasets.add_dataset('kinetics', None)\n",
    "takes_keys": "from slowfast.config import add_section\nadd_section('MODEL', {'WIDTH': 1})\n",
    "takes_retired_key": "from slowfast.config import add_section\nadd_section('LOG_MODEL_INFO', {'WIDTH': 1})\n",
    "takes_lower_case": "from slowfast.config import add_section\nadd_section('NET', {'width': 1})\n",
    "takes_a_set": "from slowfast.config import add_section\nadd_section('NET', {'WIDTH': {1}})\n",
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_package",
            "there is no module no_package; install it, add its folder to PYTHONPATH, or start in the folder",
        ),
        ("my_package.nothing", "there is no module my_package.nothing; install it"),
        ("my_package/__init__.py", "give the name of a module, as after `import`, not a path"),
        ("takes_model", "there is a model 'r3d_18' already; choose another name"),
        ("takes_data", "there is a data set 'kinetics' already; choose another name"),
        ("takes_keys", "there is a config section or key MODEL already; choose another name"),
        (
            "takes_retired_key",
            "there is a config section or key LOG_MODEL_INFO already; choose another name",
        ),
        (
            "takes_lower_case",
            "the config section NET has the name 'width'; use upper case, digits and _",
        ),
        (
            "takes_a_set",
            "NET.WIDTH is {1} by default; use a string, a number, a bool, a list or None",
        ),
    ],
)
def test_a_package_that_cannot_be_imported_ends_in_one_message(
    main: Main, project: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    if name in WRONG:
        (project / f"{name}.py").write_text(WRONG[name])
    assert main(TRAIN, "--import", name) == 1
    assert capsys.readouterr().err.startswith(f"error: --import {name}: {message}")


def test_a_module_missing_inside_the_package_is_named_by_python(main: Main, project: Path) -> None:
    (project / "takes_more.py").write_text("import not_installed\n")
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_installed'"):
        main(TRAIN, "--import", "takes_more")


def test_own_lists_become_lists_of_ours(
    main: Main, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "python ../uniformer/tools/prepare_data.py lists --annotations data --videos data lists MODEL.NUM_CLASSES 8"
    assert main(command, "--dataset", "one_table", "--import", "my_package") == 0
    assert (project / "lists/test.csv").read_text().count("\n") == 24
    assert main(command, "--dataset", "two_tables", "--import", "my_package") == 2
    assert "--dataset is 'two_tables'; choose from kinetics, " in capsys.readouterr().err
