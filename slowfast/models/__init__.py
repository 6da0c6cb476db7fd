"""UniFormer, the torchvision baselines and their weights."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowfast.models.build import build_model as build_model


def __getattr__(name: str) -> Any:
    """Import `build_model` on first use, so that importing one module does not import them all."""
    if name == "build_model":
        from slowfast.models.build import build_model

        return build_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
