"""Checks of folders: where runs write, the temporary folder, and each cache on disk."""

import errno
import math
import os
import tempfile
from pathlib import Path

from slowfast.diagnosis.finding import Finding, failed, ok, warning
from slowfast.utils.files import format_bytes, free_bytes

_BLOCK = bytes(1 << 16)
_OUTPUT_NEEDED, _OUTPUT_ADVISED = 1e9, 10e9  # A checkpoint of UniFormer-B takes 0.6 GB.
_TEMPORARY_NEEDED, _TEMPORARY_ADVISED = 100e6, 1e9


def find_write_problem(folder: Path) -> str:
    """Return why no file can be written to a folder, "" if it can.

    A folder that does not exist yet is not created. Its nearest parent counts.
    """
    try:
        absolute = Path(os.path.abspath(folder))
    except FileNotFoundError:
        return "the current folder was deleted"
    nearest = next(path for path in (absolute, *absolute.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(_BLOCK)
            file.flush()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOENT):
            return f"{nearest} is not writable"
        return f"{nearest}: {error.strerror}"
    return ""


def check_output_folder(folder: Path) -> Finding:
    """Check the folder to which runs write their checkpoints and results."""
    remedy = "Choose another folder with OUTPUT_DIR"
    return _check_folder(folder, needed=_OUTPUT_NEEDED, advised=_OUTPUT_ADVISED, remedy=remedy)


def check_temporary_folder() -> Finding:
    """Check the folder for temporary files."""
    remedy = "Set TMPDIR to a folder with room"
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return failed(f"there is none: {error.strerror}", remedy)
    return _check_folder(
        folder, needed=_TEMPORARY_NEEDED, advised=_TEMPORARY_ADVISED, remedy=remedy
    )


def _check_folder(folder: Path, *, needed: float, advised: float, remedy: str) -> Finding:
    if problem := find_write_problem(folder):
        return failed(problem, remedy, folder=str(folder))

    free = free_bytes(folder)
    if free is None:
        return ok(f"{folder} is writable, and its disk does not tell the free space")
    details = {"folder": str(folder), "free": free}
    text = f"{format_bytes(free)} free in {folder}"
    if free < needed:
        return failed(f"{text}, too little", remedy, **details)
    if free < advised:
        return warning(f"{text}, enough for little only", remedy, **details)
    return ok(text, **details)


# ---- Caches ----------------------------------------------------------------------------------


def check_download_cache() -> Finding:
    """Check the cache of files behind http(s) addresses."""
    from slowfast.utils import http_cache

    folder = Path(os.environ.get("FVCORE_CACHE", "~/.torch/iopath_cache")).expanduser()
    try:
        limit = http_cache.limit_bytes()
    except ValueError as error:
        return warning(str(error), f"unset {http_cache.LIMIT_NAME}")

    finding = check_cache(
        folder,
        consequence="downloads go to the temporary folder",
        remedy="Set FVCORE_CACHE to a writable folder",
    )
    # JSON has no number for "no limit".
    limit_bytes = limit if math.isfinite(limit) else None
    return finding._replace(details={**finding.details, "limit": limit_bytes})


def check_hub_cache() -> Finding:
    """Check the cache of the Hugging Face Hub."""
    from huggingface_hub import constants

    finding = check_cache(
        Path(constants.HF_HUB_CACHE),
        consequence="weights of the Hugging Face Hub cannot be loaded",
        remedy="Set HF_HOME to a writable folder",
    )
    if constants.HF_HUB_OFFLINE and finding.status == "ok":
        return finding._replace(text=f"{finding.text}; HF_HUB_OFFLINE is set")
    return finding


def check_plot_cache() -> Finding:
    """Check the cache of matplotlib, which draws the report page."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folder = os.environ.get("MPLCONFIGDIR") or os.path.join(home, "matplotlib")
    return check_cache(
        Path(folder).expanduser(),
        consequence="every report searches the fonts of this machine again",
        remedy="Set MPLCONFIGDIR to a writable folder",
    )


def check_cache(folder: Path, *, consequence: str, remedy: str) -> Finding:
    """Check that a cache can be written.

    Args:
        folder: Folder of the cache. It may not exist yet.
        consequence: What happens if it cannot.
        remedy: What to do about it.
    """
    if problem := find_write_problem(folder):
        return warning(f"{problem}: {consequence}", remedy, folder=str(folder))
    return ok(f"writable: {folder}", folder=str(folder))
