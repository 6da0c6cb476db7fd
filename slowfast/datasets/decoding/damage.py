"""Errors for damaged data in a video file, and the words of errors from FFmpeg and the system."""


class DamageError(Exception):
    """Raised when what was decoded from some seek point on cannot be trusted."""


class LossError(DamageError):
    """Raised when the demuxer skipped data or reached the end of the file too early."""

    def __init__(self, reason: str, *, is_at_end: bool) -> None:
        super().__init__(reason)
        self.is_at_end = is_at_end


def describe_error(error: Exception) -> str:
    """Return the words of an error without its number and file name, which our messages add."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:]
