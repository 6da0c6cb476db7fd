"""The config files that come with this package: those of `configs/` and `exp/`."""

import difflib
import os
from pathlib import Path

EXPERIMENT_FILE = "config.yaml"  # config file in the folder of an experiment
FOLDERS = ("configs", "exp")

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder() -> Path:
    """Return the folder with `configs` and `exp`: in an installed package, or the checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent


def find_config_file(path: str) -> str:
    """Return the config file that a path means.

    A folder means the `config.yaml` in it. If there is neither a file nor a folder, a path such as
    exp/quickstart means the experiment that comes with this package.

    Args:
        path: Local path or address of a YAML file, or path of a folder.

    Returns:
        The path of a file if one is found, otherwise the path as it is.
    """
    return file_at(path) or find_shipped_file(path) or path


def shipped_file(path: str) -> str:
    """Return the local path of a file that comes with this package, such as configs/k600.yaml."""
    return os.path.join(shipped_folder(), path)


def find_shipped_file(path: str) -> str | None:
    """Return the file that comes with this package under a path, or None if there is none.

    Args:
        path: Path that begins with `configs` or `exp`: of a file, or of an experiment's folder.
    """
    if "://" in path or os.path.normpath(path).split(os.sep)[0] not in FOLDERS:
        return None
    return file_at(os.path.join(shipped_folder(), os.path.normpath(path)))


def nearest_shipped_files(path: str) -> list[str]:
    """Return the paths of shipped files and experiments that resemble a path, at most three."""
    folder = shipped_folder()
    experiments = [file.parent for file in folder.glob(f"exp/*/{EXPERIMENT_FILE}")]
    files = [*experiments, *folder.glob("configs/**/*.yaml")]
    names = sorted(str(file.relative_to(folder)) for file in files)
    wanted = os.path.normpath(path).removesuffix(f"/{EXPERIMENT_FILE}")
    return difflib.get_close_matches(wanted, names, n=3, cutoff=0.8)


def file_at(path: str) -> str | None:
    """Return the config file at a path: the path itself, or `config.yaml` in that folder."""
    inside = os.path.join(path, EXPERIMENT_FILE)
    return next((file for file in (path, inside) if os.path.isfile(file)), None)
