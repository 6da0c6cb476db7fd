"""Entry point of `python -m slowfast COMMAND ...`, and of jobs, which run a copy of the package."""

import sys
from pathlib import Path

if not __package__:  # started by its path: import the package that this file belongs to
    _package = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _package]
    sys.path.insert(0, str(_package.parent))

from slowfast.commands.main import main
from slowfast.utils.threads import leave

if __name__ == "__main__":
    leave(main())
