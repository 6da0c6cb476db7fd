"""Checks of the caches of compiled code: numba's, Triton's and that of torch.compile."""

import os
import tempfile
from pathlib import Path
from types import FunctionType
from typing import cast

from slowfast.diagnosis.finding import OK, Finding, ok, warning
from slowfast.diagnosis.folders import check_cache
from slowfast.models.depthwise import triton_cache


def check_numba_cache() -> Finding:
    """Check that numba keeps the compiled resize kernel, see `datasets.resize`."""
    from numba.core.caching import FunctionCache

    from slowfast.datasets import resize

    try:
        cache = FunctionCache(cast(FunctionType, resize._resize))
    except RuntimeError:
        return warning(
            "neither the folder of the package nor that of the user is writable, so every "
            "process compiles its kernels, which takes seconds",
            "Set NUMBA_CACHE_DIR to a writable folder",
        )
    return ok(f"writable: {cache.cache_path}", folder=str(cache.cache_path))


def check_compile_cache() -> Finding:
    """Check the folders of compiled kernels: Triton's, and that of torch.compile."""
    default = os.path.join(tempfile.gettempdir(), "torchinductor")  # with the name of the user
    inductor = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", default))
    findings = [
        check_cache(
            triton_cache(),
            consequence="kernels for GPUs cannot be compiled",
            remedy="Set TRITON_CACHE_DIR to a writable folder",
        ),
        check_cache(
            inductor,
            consequence="TRAIN.COMPILE cannot work",
            remedy="Set TORCHINDUCTOR_CACHE_DIR to a writable folder",
        ),
    ]
    return next((finding for finding in findings if finding.status != OK), findings[0])
