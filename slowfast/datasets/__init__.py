"""Data pipeline: annotation lists, decoding, sampling, transforms and the loader."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowfast.datasets.build import build_loader as build_loader


def __getattr__(name: str) -> Any:
    """Import `build_loader` on first use, because single modules of the package need less."""
    if name == "build_loader":
        from slowfast.datasets.build import build_loader

        return build_loader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
