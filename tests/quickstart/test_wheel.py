"""The wheel as a user has it, outside the checkout, with `make quickstart-test`.

The environment holds the wheel and the packages of the environment of the tests, but neither this
checkout nor its editable installation.
"""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, code_blocks
from tests.quickstart.conftest import Quickstart

pytestmark = pytest.mark.quickstart

Shell = Callable[[str], str]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the checkout and install it without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "output", "data", "build", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *build, str(source)], check=True, timeout=300)
    shutil.rmtree(source)

    venv.create(folder / "environment", symlinks=True)
    python = folder / "environment/bin/python"
    [wheel] = folder.glob("*.whl")
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=300)

    # A path in a .pth file does not run the .pth files in that folder, as that of the checkout.
    [packages] = (folder / "environment/lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "environment"


@pytest.fixture
def shell(environment: Path, tmp_path: Path) -> Shell:
    """Function that runs a Bash script in an empty folder and returns what it prints."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "work"
    folder.mkdir()

    def run(script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def test_the_package_is_that_of_the_wheel(shell: Shell, environment: Path) -> None:
    printed = shell(
        "python -c 'import slowfast; print(slowfast.__file__)'\n"
        "slowfast --version\n"
        "slowfast train --cfg exp/uniformer_s8x8_k400 --print-config | grep NUM_CLASSES\n"
    )
    path, version, classes = printed.splitlines()
    assert Path(path).is_relative_to(environment)
    assert re.fullmatch(r"slowfast \d+\.\d+\.\d+", version)
    assert classes.split() == ["NUM_CLASSES:", "400"]


def test_it_holds_every_recipe(environment: Path) -> None:
    [recipes] = environment.glob("lib/python*/site-packages/slowfast/recipes")
    shipped = {path.relative_to(recipes) for path in recipes.rglob("*.*")}
    expected = {
        path.relative_to(ROOT) for name in ("configs", "exp") for path in ROOT.glob(f"{name}/**/*")
    }
    assert shipped == {path for path in expected if path.suffix == ".yaml"}


def test_the_quickstart_trains_predicts_and_is_exported(
    shell: Shell, quickstart: Quickstart, tmp_path: Path
) -> None:
    shutil.copytree(quickstart.data, tmp_path / "work/data/motion")
    printed = shell(
        "slowfast make-motion data/motion\n"
        "head -n 32 data/motion/train.csv > few.csv; mkdir lists\n"
        "for name in train val test; do cp few.csv lists/$name.csv; done\n"
        "slowfast train --cfg exp/quickstart SOLVER.MAX_EPOCH 1 SOLVER.WARMUP_EPOCHS 0"
        " DATA.PATH_TO_DATA_DIR lists TEST.NUM_ENSEMBLE_VIEWS 1\n"
    )
    assert "scored 32/32" in printed
    shell("slowfast export-weights output/quickstart shared")
    printed = shell("slowfast predict shared data/motion/test/left_0000.mp4 --json")
    assert len(json.loads(printed.splitlines()[-1])["top"]) == 5
    shell("slowfast export shared --format pt2 --out quickstart.pt2")


def test_the_tutorial_runs_as_written(shell: Shell, quickstart: Quickstart, tmp_path: Path) -> None:
    """The quickstart of its second step has been trained already, from the same videos."""
    shutil.copytree(quickstart.data, tmp_path / "work/data/motion")
    shutil.copytree(quickstart.output, tmp_path / "work/output/quickstart")
    blocks = code_blocks(TUTORIAL, "bash", "python")
    printed = []
    for block in blocks:
        is_python = block.startswith("import ")
        printed.append(shell(f"python - <<'END'\n{block}END\n" if is_python else block))

    every = "\n".join(printed)
    assert re.search(r"12 videos for training, 4 for validation, 4 for the test", every)
    assert re.search(r"2 dropped, .* \(head\.weight, head\.bias\), 0 missing, 0 unexpected", every)
    assert every.count("validation after epoch 30:") == 4  # the run, and three folds
    [python] = [text for text, block in zip(printed, blocks, strict=True) if "import slow" in block]
    assert python.split()[0] == "swing"
    work = tmp_path / "work"
    assert (work / "output/clips/test/report.html").is_file()
    assert (work / "swing-or-bounce/README.md").is_file()
    assert (work / "swing-or-bounce.onnx").is_file()
