"""UniFormer and the baselines, their weights and what is published of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowfast.models.build import build_model as build_model


def __getattr__(name: str) -> Any:
    """Import `build_model` on first use: a module of this package alone needs less."""
    if name == "build_model":
        from slowfast.models.build import build_model

        return build_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
