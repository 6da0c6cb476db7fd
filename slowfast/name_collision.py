"""Collision with another package called `slowfast`, which pip can mix into the folder of this one.

The distribution of this package is called `slowfast-uniformer`, so pip does not notice that the
distribution `slowfast` installs a module of the same name.
"""

import warnings
from collections.abc import Sequence
from os.path import abspath, dirname, isfile, join, realpath

_OWN_FILE = "trained.py"  # A file that only this package has.
# Files that only the other packages have: SlowFast, and the UniFormer repository.
_OTHER_FILES = (join("models", "video_model_builder.py"), join("utils", "lr_policy.py"))

REMEDY = (
    "pip uninstall --yes slowfast slowfast-uniformer, then install slowfast-uniformer again. Use "
    "another environment for the other package"
)


def warn_about_mixed_files() -> None:
    """Warn if the folder of this package also holds files of another one.

    It costs at most two looks for a file, because every import of the package calls it.
    """
    if problem := find_problem():
        warnings.warn(f"{problem}. {REMEDY}", stacklevel=3)


def find_problem(folder: str = "") -> str:
    """Return what is wrong with the files of this package, or "".

    Args:
        folder: Folder of the package. "" for that of this module.
    """
    folder = folder or dirname(abspath(__file__))
    if not any(isfile(join(folder, name)) for name in _OTHER_FILES):
        return ""
    return f"{folder} holds the files of two packages called slowfast, mixed by pip"


def find_others(search_path: Sequence[str]) -> list[str]:
    """Return the folders of other packages called `slowfast`.

    Args:
        search_path: Folders to search, such as sys.path. "" is the current folder.
    """
    own = realpath(dirname(__file__))
    folders = dict.fromkeys(realpath(join(entry, "slowfast")) for entry in search_path)
    return [
        folder
        for folder in folders
        if folder != own
        and isfile(join(folder, "__init__.py"))
        and not isfile(join(folder, _OWN_FILE))
    ]
