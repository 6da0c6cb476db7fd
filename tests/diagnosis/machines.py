"""Machines with a fault: a forked process breaks its own limits, mounts or network, then checks."""

import ctypes
import os
from collections.abc import Callable
from multiprocessing.connection import Pipe
from pathlib import Path

import pytest

from slowfast.diagnosis.checks import diagnose
from slowfast.diagnosis.finding import Finding

NEW_MOUNTS, NEW_NETWORK, NEW_HOST_NAME, NEW_USER = 0x20000, 0x40000000, 0x4000000, 0x10000000

_BIND, _READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 4096, 1, 32, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def diagnose_after(break_something: Callable[[], None], *, output_dir: Path) -> dict[str, Finding]:
    """Return the findings of a forked process in which a function has broken something.

    Args:
        break_something: Function that changes the process that calls it, and nothing else.
        output_dir: See `diagnose`.
    """
    receiver, sender = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            break_something()
            sender.send(dict(diagnose(output_dir)))
        except pytest.skip.Exception as error:
            sender.send(str(error))
        except BaseException as error:
            sender.send(error)
        os._exit(0)

    sender.close()
    answer: dict[str, Finding] | str | BaseException = receiver.recv()
    os.waitpid(pid, 0)
    if isinstance(answer, str):
        pytest.skip(answer)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def separate(flags: int) -> None:
    """Move this process to namespaces of its own, or skip the test where that is forbidden."""
    user, group = os.geteuid(), os.getegid()
    is_root = user == 0
    if _libc.unshare(flags if is_root else flags | NEW_USER):
        pytest.skip(f"namespaces are forbidden here: {os.strerror(ctypes.get_errno())}")
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if flags & NEW_MOUNTS:
        _mount(None, "/", None, _RECURSIVE | _PRIVATE)


def mount_memory(folder: Path | str, *, size: str) -> None:
    """Mount an empty file system of a limited size. `separate` comes first."""
    _mount("tmpfs", str(folder), "tmpfs", 0, f"size={size}")


def make_read_only(folder: Path) -> None:
    """Make a folder read-only, even for root. `separate` comes first."""
    _mount(str(folder), str(folder), None, _BIND)
    _mount(None, str(folder), None, _BIND | _REMOUNT | _READ_ONLY)


def set_host_name(name: str) -> None:
    """Change the name of the machine. `separate` comes first."""
    if _libc.sethostname(name.encode(), len(name)):
        raise OSError(ctypes.get_errno(), "sethostname")


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str = ""
) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)
