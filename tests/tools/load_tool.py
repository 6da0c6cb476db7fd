"""A tool's main function, to run it in this process."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def load_main(name: str) -> Callable[[Sequence[str]], int]:
    """Return the main function of `tools/<name>.py`."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"tools/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[Sequence[str]], int] = module.main
    return main
