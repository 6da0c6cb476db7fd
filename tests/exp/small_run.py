"""An experiment in small: all of its settings except sizes, run by its scripts."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.exp.experiments import ROOT, run_script

Serve = Callable[..., list[int]]

TINY: dict[str, Any] = {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "head_dim": 8}
SHOW = '#!/bin/sh\nprintf "%s\\0" "$@"\n'  # prints its arguments


class SmallRun(NamedTuple):
    """A small run of an experiment by its scripts.

    With `serve`, a process with finished imports runs the command that a script ends in.
    """

    exp: str
    output: Path
    environment: dict[str, str]
    settings: list[str]
    serve: Serve | None

    def script(
        self, name: str, *overrides: str, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run run.sh or test.sh from a folder outside the repository."""
        folder = self.output.parent
        environment = {**self.environment, **environment}
        words = (*self.settings, *overrides)
        if self.serve is None:
            return run_script(self.exp, name, *words, folder=folder, environment=environment)

        show = folder / "show"
        show.write_text(SHOW)
        show.chmod(0o755)
        shown_in = environment | {"PYTHON": str(show)}
        shown = run_script(self.exp, name, *words, folder=folder, environment=shown_in)
        assert shown.returncode == 0, shown.stderr
        tool, *arguments, end = shown.stdout.split("\0")
        assert (tool, end) == (str(ROOT / "tools/run_net.py"), "")

        output, errors = folder / f"{name} output", folder / f"{name} errors"
        files = {"output": output, "errors": errors}
        [status] = self.serve(arguments, num_processes=1, environment=environment, **files)
        return subprocess.CompletedProcess(words, status, output.read_text(), errors.read_text())
