"""Check of the shared memory through which loader workers hand over their batches."""

import tempfile

from slowfast.datasets import shared_memory
from slowfast.diagnosis.finding import Finding, failed, ok, warning
from slowfast.utils.files import format_bytes

# A batch of UniFormer-S, 8 clips of 16x224x224 in float32, takes 77 MB. Each loader worker has two.
_SHARED_NEEDED, _SHARED_ADVISED = 256 << 20, 2 << 30


def check_shared_memory() -> Finding:
    """Check that loader workers can hand over their batches."""
    folder = shared_memory.SHARED_MEMORY
    remedy = (
        "docker run --shm-size=8g or --ipc=host, or DATA_LOADER.NUM_WORKERS 0, which needs none"
    )
    try:
        free, total = shared_memory.free_bytes(), shared_memory.total_bytes()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        return failed(f"{folder} cannot be written: {error.strerror}", remedy)

    text = f"{format_bytes(free)} of {format_bytes(total)} free in {folder}"
    details = {"free": free, "total": total}
    if free < _SHARED_NEEDED:
        return failed(f"{text}, too little for the batches of loader workers", remedy, **details)
    if free < _SHARED_ADVISED:
        return warning(f"{text}, enough for a few loader workers only", remedy, **details)
    return ok(text, **details)
