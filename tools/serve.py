"""Serve a page and a JSON endpoint to try trained models, see `slowfast/commands/serve.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _checkout  # noqa: F401  the package of this checkout

from slowfast.commands.serve import main

if __name__ == "__main__":
    sys.exit(main())
