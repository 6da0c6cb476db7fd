"""Plugins: modules of your own that add models, datasets and config keys when they are imported.

They are imported by name before a config is read, and again in every process of a job.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points

GROUP = "slowfast.plugins"  # entry points of the modules that are always imported

_imported: list[str] = []  # plugins of this process, in the order of their import
_excluded: set[str] = set()  # folders on Python's path that hold no plugins


def exclude_folder(folder: str) -> None:
    """Never search a folder on Python's path for plugins, unless it is the current folder.

    Python puts the folder of a script first. A plugin may have the name of another script there.
    """
    _excluded.add(os.path.realpath(folder))


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option --import to a command line. It sets `args.imports`, for `import_plugins`."""
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="module that adds models, datasets or config keys of your own (repeatable)",
    )


def import_plugins(modules: Sequence[str] = ()) -> None:
    """Import the plugins of installed packages, then some modules.

    Installed packages name their plugins as entry points in the group `slowfast.plugins`. Modules
    are searched on Python's path and then in the current folder.

    Args:
        modules: Module names, such as `my_package.models`. Each is imported once.

    Raises:
        ValueError: If there is no such module, or it adds a name that is taken.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    import_installed_plugins()
    for module in modules:
        _import(module, origin=f"--import {module}")


def import_installed_plugins() -> None:
    """Import the plugins of installed packages.

    Raises:
        ValueError: If there is no such module, or it adds a name that is taken.
    """
    for entry in sorted(entry_points(group=GROUP)):
        package = entry.dist.name if entry.dist else GROUP
        _import(entry.module, origin=f"the entry point {entry.name!r} of {package}")


def imported_plugins() -> tuple[str, ...]:
    """Return the plugins that this process has imported, for `import_again`."""
    return tuple(_imported)


def import_again(modules: Sequence[str]) -> None:
    """Import the plugins of a parent process in its child."""
    for module in modules:
        _import(module, origin=module)


def _import(module: str, *, origin: str) -> None:
    if module in _imported:
        return
    if not all(name.isidentifier() for name in module.split(".")):
        raise ValueError(f"{origin}: give the name of a module, as after `import`, not a path")

    try:
        with _excluded_folders_hidden():
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but one of its own imports does not
        remedy = "Install it, add its folder to PYTHONPATH, or start in the folder that holds it"
        raise ValueError(f"{origin}: there is no module {error.name}. {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error

    _imported.append(module)


@contextmanager
def _excluded_folders_hidden() -> Iterator[None]:
    hidden = _excluded - {os.path.realpath(os.getcwd())}
    removed = [entry for entry in sys.path if entry and os.path.realpath(entry) in hidden]
    for entry in removed:
        sys.path.remove(entry)
    try:
        yield
    finally:
        sys.path[:0] = removed
