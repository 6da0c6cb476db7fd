"""The package of this checkout, for its tools and benchmarks.

They import this module before the package, so `python B/tools/run_net.py` runs the code of checkout
B even if checkout A is installed (`pip install --editable`) or on PYTHONPATH.
"""

import sys
from pathlib import Path


def _use_own_package() -> None:
    """Search the root of this checkout before all other folders for modules."""
    root = Path(__file__).resolve().parents[1]
    own = root / "slowfast/__init__.py"
    if not own.is_file():
        return

    if sys.path[:1] != [str(root)]:
        sys.path.insert(0, str(root))

    imported = getattr(sys.modules.get("slowfast"), "__file__", None)
    if imported and Path(imported).resolve() != own:
        running = Path(imported).parent
        note = f"note: {running} was imported before this tool and runs instead of {own.parent}"
        print(note, file=sys.stderr)


_use_own_package()

from slowfast.utils import plugins  # noqa: E402, from this checkout

plugins.exclude_folder(str(Path(__file__).resolve().parent))
