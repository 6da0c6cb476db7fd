"""Code blocks and shell commands of Markdown pages, for the tests that run them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from slowfast.config import CfgNode, find_problems, load_cfg
from slowfast.datasets import build as datasets
from slowfast.engine import choose_weights
from slowfast.models import build as models
from slowfast.models import freezing

ROOT = Path(__file__).parents[2]

_CODE_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```\n",
    re.MULTILINE | re.DOTALL,
)
_HERE_FILE = re.compile(r"^cat > (\S+) <<'EOF'\n(.*?)^EOF\n", re.MULTILINE | re.DOTALL)


def code_blocks(text: str, *languages: str) -> list[str]:
    """Return the code blocks of a page in some languages, in the order of the page."""
    blocks = _CODE_BLOCK.finditer(text)
    return [block["code"] for block in blocks if block["language"] in languages]


def code_languages(text: str) -> set[str]:
    return {block["language"] for block in _CODE_BLOCK.finditer(text)}


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    return _CODE_BLOCK.sub("", text)


def write_here_files(block: str) -> None:
    """Write the files that a block creates with `cat > FILE <<'EOF'` to the current folder."""
    for name, content in _HERE_FILE.findall(block):
        Path(name).write_text(content)


def command_lines(block: str) -> list[str]:
    """Return the commands of a block, one line each, without those that create a file."""
    lines = _HERE_FILE.sub("", block).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()]


def override_words(settings: Mapping[str, object]) -> list[str]:
    """Return settings as the KEY VALUE arguments of a command."""
    words: list[str] = []
    for key, value in settings.items():
        words += [key, str(value)]
    return words


def load_checked_cfg(path: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Load a config with the checks that `tools/run_net.py` makes before it starts a process."""
    checks = [
        find_problems,
        models.find_problems,
        choose_weights.find_problems,
        datasets.find_problems,
    ]
    return load_cfg(path, overrides, checks=checks, final_checks=[freezing.find_problems])
