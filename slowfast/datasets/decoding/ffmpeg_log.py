"""FFmpeg's log: the only report of pictures it conceals and of data it skips."""

import logging

import av

# Errors that say nothing about the picture: references that are freed twice, captions and so on.
_HARMLESS = ("mmco: unref short failure", "SEI ")

Messages = list[tuple[int, str, str]]  # level, name of the decoder or demuxer, text


def forward_errors() -> None:
    """Make PyAV forward FFmpeg's errors, which it drops by default."""
    level = av.logging.get_level()
    if level is None:
        # Errors outside a `captured_log` are not for the user.
        logging.getLogger("libav").setLevel(logging.CRITICAL)
    if level is None or level < av.logging.ERROR:
        av.logging.set_level(av.logging.ERROR)

    # The next frame or the next file may cause the same error again.
    av.logging.set_skip_repeated(False)


def captured_log() -> av.logging.Capture:
    """Return a context that collects what FFmpeg logs in this thread.

    FFmpeg calls back for each message, and the callback waits for Python's lock. This is safe in
    the thread that decodes, which releases the lock while FFmpeg works. But if one of FFmpeg's own
    threads logged while Python waits for that thread, both would wait forever. Use decoders without
    threads.
    """
    return av.logging.Capture()


def first_error(messages: Messages, *, source: str = "") -> str:
    """Return the first error in captured messages, or "" if there is none.

    Args:
        messages: Messages from `captured_log`.
        source: Name of the decoder or demuxer to search for errors, "" for any.
    """
    for level, name, text in messages:
        if level <= av.logging.ERROR and source in ("", name) and not text.startswith(_HARMLESS):
            return text.strip()
    return ""
