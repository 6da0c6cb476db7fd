"""Export a model to pt2 or ONNX, see `slowfast/commands/export.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as Python does, unless told not to
import _checkout  # noqa: F401  the package of this checkout

from slowfast.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
