"""Explain predictions, see `slowfast/commands/explain.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _checkout  # noqa: F401  the package of this checkout

from slowfast.commands.explain import main
from slowfast.utils.threads import leave

if __name__ == "__main__":
    leave(main())
