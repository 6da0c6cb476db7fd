"""UTF-8 text files of annotations: opening, reading, and reporting of invalid rows."""

import gzip
import json
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from slowfast.utils.paths import forget, pathmgr

MAX_SHOWN = 5  # invalid rows that one error quotes
MAX_CHARACTERS = 500  # length of the description of one invalid row


@contextmanager
def open_text(path: str, *, key: str = "DATA.PATH_TO_DATA_DIR") -> Iterator[TextIO]:
    """Open a UTF-8 text file with any line endings, with or without a byte order mark.

    Args:
        path: Path of the file. It may be local or remote, plain or `.gz`.
        key: Config key that the error suggests to check if the file is missing.

    Raises:
        OSError: If the file is missing or cannot be read. The message names the file.
        ValueError: If the file is not text in UTF-8. The message names the file.
    """
    try:
        local_path = pathmgr.get_local_path(path)
        _reject_special_file(local_path)
        open_file = gzip.open if path.endswith(".gz") else open

        with open_file(local_path, "rt", encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file. Check {key}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8: {error.reason}{forget(path)}") from error
    except ValueError:  # raised by the caller for the content of the file
        forget(path)
        raise
    except (OSError, EOFError, zlib.error) as error:  # server, disk, or damaged .gz
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ")
        raise OSError(f"{path}: {reason}{forget(path)}") from error


def numbered_lines(path: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of a text file that are not blank, each as (`"line 3"`, stripped text)."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", line.strip()


def read_json(path: str, *, expected: type) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the file is not JSON or its top level is not of type `expected`.
    """
    with open_text(path) as file:
        try:
            content = json.load(file)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON: {error}") from error

    if not isinstance(content, expected):
        found = type(content).__name__
        raise ValueError(f"{path}: expected a JSON {expected.__name__}, found a {found}")
    return content


def first_existing(paths: Sequence[str]) -> str:
    """Return the first path, local or remote, that exists. If none does, return the first one."""
    if len(paths) == 1:
        return paths[0]
    return next((path for path in paths if _exists(path)), paths[0])


def reject_invalid_rows(list_path: str, problems: Sequence[str], *, num_invalid: int) -> None:
    """Raise one ValueError for all invalid rows of a list, if there are any.

    Args:
        list_path: Path of the list.
        problems: Location and problem of the first invalid rows, at least `MAX_SHOWN` of them.
        num_invalid: Number of invalid rows in the whole list.
    """
    if num_invalid == 0:
        return

    discarded = forget(list_path)
    shown = [_shorten(problem) for problem in problems[:MAX_SHOWN]]
    if num_invalid == 1:
        raise ValueError(f"{list_path}{discarded} {shown[0]}")

    title = f"{list_path}{discarded} has {num_invalid} invalid rows:"
    raise ValueError("\n    ".join([title, *shown]))


def reject_mixed_labels(list_path: str, *, labeled: str, unlabeled: str) -> None:
    """Raise a ValueError for a list in which only some rows have a label.

    Args:
        list_path: Path of the list.
        labeled: Location of the first row with a label, such as "line 3".
        unlabeled: Location of the first row without one.
    """
    raise ValueError(
        f"{list_path}{forget(list_path)} {unlabeled} has no label, but {labeled} has one. Label "
        "all rows, or none to predict them without scoring"
    )


def _reject_special_file(path: str) -> None:
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(
            "is a pipe or a device, which cannot be read twice. Write its content to a file"
        )


def _exists(path: str) -> bool:
    try:  # some handlers of iopath do not implement `exists` for remote paths
        return pathmgr.exists(pathmgr.get_local_path(path))
    except OSError:
        return False


def _shorten(text: str) -> str:
    """Cut the middle out of a long text."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[: MAX_CHARACTERS // 2]} ... {text[-MAX_CHARACTERS // 2 :]}"
