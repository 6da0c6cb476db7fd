"""Names of the commands in messages, as the reader can type them."""

from pathlib import Path

_TOOLS = Path(__file__).resolve().parents[2] / "tools"  # in a checkout
_SUBCOMMANDS = {"run_net": "train"}  # those that are not named like their file


def command_name(name: str) -> str:
    """Return the name of a command: `tools/check_data.py` or, outside a checkout, its sub-command.

    Args:
        name: Name of the file in `tools/`, such as `check_data`.
    """
    if _is_checkout():
        return f"tools/{name}.py"
    return f"slowfast {_SUBCOMMANDS.get(name, name).replace('_', '-')}"


def command_line(name: str) -> str:
    """Return what starts a command: `python tools/check_data.py` or `slowfast check-data`."""
    return f"python {command_name(name)}" if _is_checkout() else command_name(name)


def _is_checkout() -> bool:
    return (_TOOLS / "run_net.py").is_file()
