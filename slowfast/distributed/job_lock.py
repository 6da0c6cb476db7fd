"""Job lock: a folder lock that the main process of a job holds for all of its processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slowfast.distributed.collectives import is_main
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import current_job
from slowfast.utils.cleanup import cleaned_up
from slowfast.utils.provenance import provenance


@contextmanager
def locked(output_dir: str, *, purpose: str) -> Iterator[FolderLock | None]:
    """Lock a directory for one training, one test or one extraction of features at a time.

    Only the main process locks it, since it alone writes there. The others get None.

    Args:
        output_dir: Directory to lock.
        purpose: training | test | features. They do not exclude each other.

    Raises:
        FolderLockedError: If another process does the same there.
    """
    if not is_main():
        yield None
        return

    path = Path(output_dir, f"{purpose}.lock")
    lock = FolderLock(path, purpose=purpose, job=current_job(), command=provenance()["command"])
    with cleaned_up(lock.release):
        lock.acquire()
        yield lock
