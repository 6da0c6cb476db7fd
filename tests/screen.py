"""A terminal: a pseudo-terminal for a process, and what its screen would show."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Output(NamedTuple):
    """The exit status of a process, and the bytes that it wrote to its terminal."""

    status: int
    written: bytes


def run_in_terminal(
    command: Sequence[str],
    *,
    columns: int,
    folder: Path,
    environment: dict[str, str] | None = None,
) -> Output:
    """Run a command whose standard output and error are a terminal."""
    near_end, far_end = pty.openpty()
    set_columns(far_end, columns)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=far_end,
        stderr=far_end,
        cwd=folder,
        env=os.environ | {"TERM": "xterm"} | (environment or {}),
        start_new_session=True,
    )
    os.close(far_end)
    written = read_all(near_end)
    os.close(near_end)
    return Output(process.wait(), written)


def set_columns(terminal: int, columns: int) -> None:
    """Change the width of a terminal."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))


def read_all(near_end: int) -> bytes:
    """Read until no process has the terminal open."""
    chunks = []
    with contextlib.suppress(OSError):  # Linux reports the end as EIO.
        while chunk := os.read(near_end, 65536):
            chunks.append(chunk)
    return b"".join(chunks)


def rows_of(written: bytes, *, columns: int) -> list[str]:
    """Return the rows that a terminal shows after some output, with those that scrolled away."""
    rows = [""]
    row, column = 0, 0
    text = written.decode()
    position = 0
    while position < len(text):
        if text.startswith("\x1b[K", position):
            rows[row] = rows[row][:column]
            position += 3
            continue

        character = text[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        else:
            assert character.isprintable(), f"the terminal does not know {character!r}"
            if column == columns:
                row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
            line = rows[row].ljust(column)
            rows[row] = line[:column] + character + line[column + 1 :]
            column += 1
        rows += [""] * (row + 1 - len(rows))
    return [line.rstrip() for line in rows]
