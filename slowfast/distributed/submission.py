"""Submission: the folder of submitted jobs, with a copy of the source that they run.

Edits after the submission reach neither a job nor its later starts. The pickles in the folder
belong to submitit.
"""

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from slowfast.distributed.submitted_job import JOBS_FILE
from slowfast.utils.command_names import command_name
from slowfast.utils.files import write_json
from slowfast.utils.provenance import SOURCE_FILE, find_source

TIME_FORMAT = "%Y%m%d-%H%M%S"  # Name of a submission's folder, for time.strftime.

_TIME_LENGTH = len("20260131-093000")


def find_submission(folder: str) -> Path:
    """Return the folder of a submission.

    Args:
        folder: That folder itself, or a folder that holds submissions: a folder `jobs`, or an
            OUTPUT_DIR with a folder `jobs`. Then this returns the newest submission.

    Raises:
        FileNotFoundError: If there is none. The message lists the paths that were tried.
    """
    if Path(folder, JOBS_FILE).is_file():
        return Path(folder)

    patterns = (f"*/{JOBS_FILE}", f"jobs/*/{JOBS_FILE}")
    found = [path.parent for pattern in patterns for path in Path(folder).glob(pattern)]
    if not found:
        tried = ", ".join(str(Path(folder, name)) for name in (JOBS_FILE, *patterns))
        raise FileNotFoundError(
            f"{folder} holds no submission: none of {tried} exists. Name the folder that "
            f"{command_name('submit')} printed"
        )
    # Of two names from one second, the later one is longer, see `make_folder`.
    return max(found, key=lambda path: (path.name[:_TIME_LENGTH], len(path.name), path.name))


def make_folder(folder: Path) -> Path:
    """Create the folder of a submission and return it. If the name is taken, add a number."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    number, name = 1, folder.name
    while True:
        try:
            folder.mkdir()  # Fails if another submission has just created it.
            return folder
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{name}-{number}")


def copy_source(package: Path, folder: Path, *, plugins: Sequence[str] = ()) -> None:
    """Copy what a job runs: this package, and plugins that are not installed.

    The copy records its commit, see `slowfast.utils.provenance.find_source`.

    Args:
        package: Folder of this package.
        folder: Folder of the copy. It must not exist yet.
        plugins: Names of imported modules.
    """
    write_json(folder / SOURCE_FILE, find_source(package.parent)._asdict())
    # Compiled files of Python and numba stay valid, because the copy keeps file times.
    shutil.copytree(package, folder / package.name)

    for name in sorted({plugin.partition(".")[0] for plugin in plugins}):
        path = _find_module(name)
        if "site-packages" in path.parts or (folder / path.name).exists():
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copy(path, folder)


def _find_module(name: str) -> Path:
    """Return the file of a module, or the folder of a package."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return Path()
    locations = list(spec.submodule_search_locations or [])
    return Path(locations[0] if locations else str(spec.origin))
