"""The trained quickstart, for all tests of this folder."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Quickstart(NamedTuple):
    """A trained run and how to run its scripts."""

    repository: Path
    data: Path
    output: Path
    environment: dict[str, str]

    def script(self, name: str, *overrides: str, **environment: str) -> str:
        """Run run.sh or test.sh from outside the repository. Return what it printed."""
        env = os.environ | {"DATA_DIR": str(self.data), "OUTPUT_DIR": str(self.output)}
        env |= self.environment | environment
        command = ["bash", str(self.repository / "exp/quickstart" / name), *overrides]
        result = subprocess.run(
            command, env=env, cwd="/", capture_output=True, text=True, timeout=1800
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout


@pytest.fixture(scope="session")
def quickstart(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """The trained experiment, in folders with spaces in their names."""
    folder = tmp_path_factory.mktemp("quick start")
    run = Quickstart(repository, folder / "motion videos", folder / "out put", {})
    run.script("run.sh", "NUM_GPUS", "0", "TEST.ENABLE", "False")
    return run
