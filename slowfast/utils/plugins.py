"""Packages of a user, imported by name before a config is read, and again in every process that is started.

They add models, data sets and config keys as they are imported.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

GROUP = "slowfast.plugins"  # of entry points: modules that are always imported

_imported: list[str] = []  # in this process, in order


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Give a command line the option --import, whose values `import_plugins` takes as `args.imports`."""
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="of models, data sets or config keys of your own; can be repeated",
    )


def import_plugins(modules: Sequence[str] = ()) -> None:
    """Import the modules that installed packages name in the entry points `slowfast.plugins`, then those given.

    They are looked for where Python looks, and then in the current folder.

    Args:
        modules: names as after `import`; each is imported once.

    Raises:
        ValueError: there is no such module, or what it adds has a name that is taken.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for entry in sorted(entry_points(group=GROUP)):
        _import(
            entry.module,
            origin=f"the entry point {entry.name!r} of {entry.dist.name if entry.dist else GROUP}",
        )
    for module in modules:
        _import(module, origin=f"--import {module}")


def imported_plugins() -> tuple[str, ...]:
    """Return the modules that this process has imported, for `import_again`."""
    return tuple(_imported)


def import_again(modules: Sequence[str]) -> None:
    """Import, in a process that was started, the plugins of the process that started it."""
    for module in modules:
        _import(module, origin=module)


def _import(module: str, *, origin: str) -> None:
    if module in _imported:
        return
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{origin}: give the name of a module, as after `import`, not a path")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, but not what it imports
        raise ValueError(
            f"{origin}: there is no module {error.name}; install it, add its folder to PYTHONPATH, "
            "or start in the folder that holds it"
        ) from error
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error
    _imported.append(module)
