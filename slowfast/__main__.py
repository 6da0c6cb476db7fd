"""Entry point of `python -m slowfast COMMAND ...`, and of jobs, which run a copy of the package."""

import sys
from pathlib import Path

if not __package__:  # started by its path: import the package that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from slowfast.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
