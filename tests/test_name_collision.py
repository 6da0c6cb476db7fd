"""Another package called `slowfast`: mixed into this one by pip, or found on Python's path."""

import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

import slowfast
from slowfast import name_collision

# Some files of the distribution `slowfast` 1.0 on PyPI.
THEIR_FILES = (
    "slowfast/__init__.py",
    "slowfast/config/__init__.py",
    "slowfast/config/defaults.py",
    "slowfast/models/__init__.py",
    "slowfast/models/video_model_builder.py",
    "slowfast/utils/__init__.py",
    "slowfast/utils/lr_policy.py",
)
OUR_NAMES = ("__init__.py", "__main__.py", "name_collision.py", "trained.py")


def write_wheel(folder: Path, distribution: str, files: dict[str, str]) -> Path:
    """Write a wheel that pip installs."""
    info = f"{distribution}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / f"{distribution}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of the other package, and one with a small part of this package."""
    folder = tmp_path_factory.mktemp("wheels")
    package = Path(slowfast.__file__).parent
    ours = [package / name for name in OUR_NAMES]
    ours += [
        path
        for name in ("commands", "utils", "diagnosis")
        for path in (package / name).glob("*.py")
    ]
    texts = {f"slowfast/{path.relative_to(package)}": path.read_text() for path in ours}
    return {
        "ours": write_wheel(folder, "slowfast_uniformer", texts),
        "theirs": write_wheel(folder, "slowfast", dict.fromkeys(THEIR_FILES, "")),
    }


def install(wheel: Path, prefix: Path) -> Path:
    """Install a wheel with pip and return the folder of the modules."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-compile", "--ignore-installed", "--prefix", str(prefix), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return next(prefix.glob("lib/python*/site-packages"))


@pytest.fixture(scope="module")
def ours_last(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which this package was installed over the other one."""
    prefix = tmp_path_factory.mktemp("ours_last")
    install(wheels["theirs"], prefix)
    return install(wheels["ours"], prefix)


@pytest.fixture(scope="module")
def theirs_last(
    wheels: dict[str, Path], ours_last: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder in which the other package was installed over this one."""
    prefix = tmp_path_factory.mktemp("theirs_last") / "prefix"
    shutil.copytree(ours_last.parents[2], prefix)
    return install(wheels["theirs"], prefix)


def run(*arguments: str, modules: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    env = os.environ | {"PYTHONPATH": str(modules)}
    return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=60)


def test_the_import_warns_about_mixed_files(ours_last: Path) -> None:
    done = run("-c", "import slowfast; print(slowfast.__version__)", modules=ours_last)

    assert done.stdout == f"{slowfast.__version__}\n"
    package = ours_last / "slowfast"
    assert f"{package} holds the files of two packages called slowfast" in done.stderr
    assert "pip uninstall --yes slowfast slowfast-uniformer" in done.stderr


def test_doctor_fails_for_mixed_files(ours_last: Path) -> None:
    program = "from slowfast.diagnosis.software import check_module_name as check; print(*check())"
    done = run("-W", "ignore", "-c", program, modules=ours_last)

    assert done.stdout.startswith(f"failed {ours_last}/slowfast holds the files of two packages")


def test_commands_of_an_overwritten_package_say_so(theirs_last: Path) -> None:
    for arguments in (["-m", "slowfast"], ["-c", "from slowfast.commands.main import main"]):
        done = run(*arguments, "doctor", modules=theirs_last)

        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {theirs_last}/slowfast holds the files of two")
        assert "Traceback" not in done.stderr


def test_this_package_alone_imports_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        name_collision.warn_about_mixed_files()


def test_other_packages_on_the_path_are_found(ours_last: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "SlowFast"
    (checkout / "slowfast/models").mkdir(parents=True)
    (checkout / "slowfast/__init__.py").write_text("")
    own = Path(slowfast.__file__).parents[1]
    search_path = [str(own), str(ours_last), str(checkout), str(tmp_path), "/does/not/exist"]

    assert name_collision.find_others(search_path) == [str(checkout / "slowfast")]
