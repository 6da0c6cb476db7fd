"""The report of a diagnosis as text for a terminal."""

import textwrap
from collections.abc import Mapping

from slowfast.diagnosis.checks import worst_status
from slowfast.diagnosis.finding import FAILED, OK, WARNING, Finding
from slowfast.utils.text import count

_COLUMNS = 80
_STATUS_COLUMNS, _NAME_COLUMNS = 9, 18
_INDENT = " " * (_STATUS_COLUMNS + _NAME_COLUMNS)


def format_finding(name: str, finding: Finding, *, columns: int = _COLUMNS) -> str:
    """Return the lines of a check: its status, what was found, and what to do about it."""
    head = f"{finding.status:<{_STATUS_COLUMNS}}{name:<{_NAME_COLUMNS}}"
    lines = _wrap(head, finding.text, columns)
    if finding.status != OK:
        lines += _wrap(f"{_INDENT}-> ", finding.remedy, columns, indent=f"{_INDENT}   ")
    return "\n".join(lines)


def format_summary(findings: Mapping[str, Finding]) -> str:
    """Return what the findings mean for a training on this machine, as a line."""
    statuses = [finding.status for finding in findings.values()]
    num_failed, num_warnings = statuses.count(FAILED), statuses.count(WARNING)
    warnings = count(num_warnings, "warning")
    if worst_status(findings) == FAILED:
        return f"This machine is not ready for training: {num_failed} failed, {warnings}."
    return f"This machine is ready for training: {warnings}."


def _wrap(head: str, text: str, columns: int, *, indent: str = _INDENT) -> list[str]:
    return textwrap.wrap(
        text,
        width=columns,
        initial_indent=head,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=True,
    )
