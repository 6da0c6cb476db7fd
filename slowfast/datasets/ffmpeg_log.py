"""Errors that FFmpeg reports in its log alone: pictures that it conceals, data that it skips."""

import logging

import av

# Errors that say nothing about the picture: references that are freed twice, captions and the like.
_HARMLESS = ("mmco: unref short failure", "SEI ")

Messages = list[tuple[int, str, str]]  # level, name of what reports, text


def listen() -> None:
    """Have PyAV pass on FFmpeg's errors, which it drops unless it is told otherwise."""
    level = av.logging.get_level()
    if level is None:
        logging.getLogger("libav").setLevel(logging.CRITICAL)  # what nobody collects stays unsaid
    if level is None or level < av.logging.ERROR:
        av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(
        False
    )  # the same error may befall the next frame, or the next file


def captured_log() -> av.logging.Capture:
    """Return a context that collects what FFmpeg logs in this thread.

    FFmpeg calls back for each message, and the callback waits for Python's lock. That is safe in
    the thread that decodes, which gives up the lock while FFmpeg works. But a thread of FFmpeg's
    own would wait forever if it logged while Python waits for it: use decoders without threads.
    """
    return av.logging.Capture()


def first_error(messages: Messages, *, source: str = "") -> str:
    """Return the first error in captured messages, or "" if there is none.

    Args:
        messages: What `captured_log` collected.
        source: The name of the decoder or demuxer whose errors count; "" for any.
    """
    for level, name, text in messages:
        if level <= av.logging.ERROR and source in ("", name) and not text.startswith(_HARMLESS):
            return text.strip()
    return ""
