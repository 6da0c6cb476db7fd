"""Names of the commands in messages, as the reader can type them."""

import sys
from pathlib import Path

_TOOLS = Path(__file__).resolve().parents[2] / "tools"  # in a checkout
_SUBCOMMANDS = {"run_net": "train"}  # those that are not named like their file


def command_name(name: str) -> str:
    """Return the name of a command: `tools/check_data.py` in a checkout, or `slowfast check-data`.

    Args:
        name: Name of the file in `tools/`, such as `check_data`.
    """
    if _are_tools_used():
        return f"tools/{name}.py"
    return f"slowfast {_SUBCOMMANDS.get(name, name).replace('_', '-')}"


def command_line(name: str) -> str:
    """Return what starts a command: `python tools/check_data.py` or `slowfast check-data`."""
    return f"python {command_name(name)}" if _are_tools_used() else command_name(name)


def is_slowfast_command() -> bool:
    """Return whether this process was started as `slowfast` or `python -m slowfast`."""
    program = Path(sys.argv[0])
    is_module = program.name == "__main__.py" and program.parent.name == "slowfast"
    return is_module or program.name == "slowfast"


def _are_tools_used() -> bool:
    return (_TOOLS / "run_net.py").is_file() and not is_slowfast_command()
