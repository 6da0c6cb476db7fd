"""Files of repositories on the Hugging Face Hub: from its cache or its server, with clear errors.

The library `huggingface_hub` reads all settings from its own environment variables: HF_TOKEN,
HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and others. The token never reaches a message.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from slowfast.utils.checksum import sha256_of
from slowfast.utils.text import printable

HUB_PREFIX = "hf:"  # in front of org/name, a repository on the Hub

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}|(?<=Bearer )[^\s'\"]+")
_CONNECT_SECONDS = 10.0  # time limit of the first answer
_MAX_CHARACTERS = 200  # length of a server's own words in a message
LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN"  # remedy, as a sentence

logger = logging.getLogger(__name__)


class Repository(NamedTuple):
    """A repository on the Hub, such as `org/name@revision`.

    Attributes:
        name: Name with its owner, such as org/name.
        revision: Branch, tag or commit. "" for the main branch.
    """

    name: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{HUB_PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse_repository(text: str) -> Repository:
    """Return a repository from `org/name` or `org/name@revision`, with or without `hf:`.

    Raises:
        ValueError: If it is neither.
    """
    name, at, revision = text.removeprefix(HUB_PREFIX).partition("@")
    is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII)
    if not is_name or bool(at) != bool(revision) or not revision.isprintable():
        shown = printable(text.removeprefix(HUB_PREFIX))
        raise ValueError(f"{HUB_PREFIX}{shown}: is not org/name or org/name@revision")
    return Repository(name, revision)


def fetch_files(
    repository: Repository, files: Sequence[str], *, may_download: bool = True
) -> list[str]:
    """Return the local paths of files of one commit of a repository, after a download if needed.

    The server says which commit a branch or a tag is. If it does not answer, the commit in the
    cache is taken, which is logged. A full commit hash in the cache needs no server.

    Args:
        repository: The repository.
        files: Names of the files.
        may_download: Whether to send requests at all.

    Raises:
        FileNotFoundError: If there is no such repository, revision or file.
        OSError: If the server does not answer or refuses, or a file cannot be written.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HTTPError

    problem = f"{repository}: cannot be downloaded"
    with hub_errors(problem):
        cached = _find_all_cached(repository, files)
    is_final = HF_HUB_OFFLINE or not may_download or _COMMIT.fullmatch(repository.revision)
    if cached and is_final:
        return cached
    if not may_download:
        raise FileNotFoundError(f"{problem}: it is not in the cache")
    if HF_HUB_OFFLINE:
        raise FileNotFoundError(
            f"{problem}: it is not in the cache, and HF_HUB_OFFLINE forbids to download it. Unset "
            "that, or download it before"
        )

    with hub_errors(problem):
        try:
            _ask_server(repository, files[0])
        except (HTTPError, OSError) as error:
            if not cached or _is_definite(error):
                raise
            commit, reason = Path(cached[0]).parent.name, _explain(error)
            logger.warning("%s: %s. Taking commit %s from the cache", repository, reason, commit)
            return cached

        if not cached:
            logger.warning("%s: downloading %s to the cache", repository, " and ".join(files))
        first = hf_hub_download(repository.name, files[0], revision=repository.revision or None)
        commit = Path(first).parent.name
        others = [hf_hub_download(repository.name, file, revision=commit) for file in files[1:]]
        return [first, *others]


def find_cached(repository: Repository, file: str) -> str | None:
    """Return the path of a file in the cache of the Hub, None if it is not there.

    Nothing is downloaded. A large file is named after its SHA-256, which is checked.

    Raises:
        ValueError: If the file is damaged.
    """
    path = next(iter(_find_all_cached(repository, [file])), None)
    if path is None:
        return None

    blob = os.path.realpath(path)
    name = os.path.basename(blob)
    if _SHA256.fullmatch(name) and sha256_of(blob) != name:
        raise ValueError(
            f"{path}: is damaged, its sha256 is not the one that the Hub gave. Delete {blob} to "
            "download it again"
        )
    return path


@contextmanager
def hub_errors(problem: str) -> Iterator[None]:
    """Turn the errors of `huggingface_hub` into one line with the reason, and without the token.

    Args:
        problem: What did not work, such as "hf:org/name: cannot be downloaded".

    Raises:
        FileNotFoundError: If there is no such repository, revision or file.
        OSError: If the Hub does not answer or refuses, or a file cannot be read or written.
    """
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    with _no_token_in_logs():
        try:
            yield
        except (HTTPError, OSError, ValueError, EntryNotFoundError) as error:
            kind = FileNotFoundError if _is_missing(error) else OSError
            # From None, since a traceback would show the first error, which may hold the token.
            raise kind(f"{problem}: {_explain(error)}") from None


def without_token(text: str) -> str:
    """Return a text with `***` instead of every token of the Hub."""
    from huggingface_hub import get_token

    with suppress(OSError, ValueError):
        if token := get_token():
            text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


def server_address() -> str:
    """Return the address of the server, without a user name in it."""
    from huggingface_hub.constants import ENDPOINT

    parts = urlsplit(ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


# ---- Requests --------------------------------------------------------------------------------


def _find_all_cached(repository: Repository, files: Sequence[str]) -> list[str]:
    """Return the paths of files in the cache, [] unless all of them are there."""
    from huggingface_hub import try_to_load_from_cache

    revision = repository.revision or None
    found = [try_to_load_from_cache(repository.name, file, revision=revision) for file in files]
    paths = [path for path in found if isinstance(path, str)]
    return paths if len(paths) == len(files) else []


def _ask_server(repository: Repository, file: str) -> None:
    """Ask the server for a file, once. A download would try again and again for a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository.name, file, revision=repository.revision or None)
    if get_hf_file_metadata(url, timeout=_CONNECT_SECONDS).commit_hash is None:
        raise OSError(f"{server_address()} is no Hub, since it names no commit. Check HF_ENDPOINT")


# ---- Errors ----------------------------------------------------------------------------------


def _is_missing(error: BaseException) -> bool:
    """Whether the server said that there is no such repository, revision or file."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if _status_of(error) == 404:
        return True
    missing = (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError)
    return isinstance(error, missing) and not isinstance(error, LocalEntryNotFoundError)


def _is_definite(error: BaseException) -> bool:
    """Whether asking the server again would give the same answer."""
    return _is_missing(error) or _status_of(error) in (401, 403)


def _status_of(error: BaseException) -> int:
    """Return the HTTP status of an error, 0 if it has none."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _explain(error: BaseException) -> str:
    """Return the reason of an error of the Hub and a remedy, without the token."""
    from huggingface_hub import errors

    status = _status_of(error)
    if isinstance(error, errors.GatedRepoError):
        return f"the repository is gated. Ask for access on its page. {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        private = "or it is private and your token does not open it"
        return f"there is no such repository, {private}. Check its name. {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision. Name a branch, a tag or a commit after the @"
    if isinstance(error, errors.EntryNotFoundError) and _is_missing(error):
        return f"it has no file {_file_of(error)}"
    if status == 404:
        return f"{server_address()} has no such repository, revision or file (HTTP status 404)"
    if status in (401, 403):
        return f"the Hub refused the token (HTTP status {status}){_words_of(error)}. {LOG_IN}"
    if status:
        return f"the Hub answered with HTTP status {status}{_words_of(error)}. Try again later"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids requests. Unset it"
    if isinstance(error, UnicodeEncodeError):
        return f"the token has a character that no token has. {LOG_IN}"
    is_of_requests = hasattr(error, "request")  # the library of older versions
    if isinstance(error, errors.HTTPError) or is_of_requests:
        return f"no answer from {server_address()} ({_shorten(_root_of(error))}). Check the network"
    return _shorten(error)


def _root_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _file_of(error: BaseException) -> str:
    url = str(getattr(getattr(error, "response", None), "url", ""))
    return printable(unquote(urlsplit(url).path).rpartition("/")[2]) or "of this name"


def _words_of(error: BaseException) -> str:
    """Return the server's own words in an error, in front of them a colon."""
    words = getattr(error, "server_message", None)
    return f": {_shorten(words)}" if words else ""


def _shorten(reason: object) -> str:
    """Return a reason as the start of one line, safe to print."""
    text = str(reason) or type(reason).__name__
    if isinstance(reason, OSError) and reason.strerror and reason.filename:
        text = f"{os.fsdecode(reason.filename)}: {reason.strerror}"
    line = " ".join(without_token(text).split())
    return printable(line)[:_MAX_CHARACTERS].rstrip(".")


class _WithoutToken(logging.Filter):
    """Replaces tokens in log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_token(record.getMessage()), ()
        return True


@contextmanager
def _no_token_in_logs() -> Iterator[None]:
    """Keep tokens that a server sends back out of the log of `huggingface_hub`."""
    handlers = logging.getLogger("huggingface_hub").handlers
    token_filter = _WithoutToken()
    for handler in handlers:
        handler.addFilter(token_filter)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(token_filter)
