"""Training, testing and use of UniFormer video classifiers, driven by one config tree."""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from slowfast.name_collision import warn_about_mixed_files

if TYPE_CHECKING:
    from slowfast.api import create_model as create_model
    from slowfast.api import list_models as list_models
    from slowfast.api import list_weights as list_weights
    from slowfast.inference.classifier import Classifier as Classifier
    from slowfast.models.freezing import freeze as freeze
    from slowfast.models.freezing import unfreeze as unfreeze
    from slowfast.trained import load as load

__version__ = "0.1.0"

_API = {
    "Classifier": "slowfast.inference.classifier",
    "load": "slowfast.trained",
    "create_model": "slowfast.api",
    "freeze": "slowfast.models.freezing",
    "list_models": "slowfast.api",
    "list_weights": "slowfast.api",
    "unfreeze": "slowfast.models.freezing",
}  # name -> module, imported on first use

# timm triggers this warning when it is imported, and users can do nothing about it.
warnings.filterwarnings(
    "ignore", message="`torch.jit.script` is deprecated", category=FutureWarning
)

warn_about_mixed_files()


def __getattr__(name: str) -> Any:
    """Import a name of the public API on first use."""
    if name in _API:
        return getattr(import_module(_API[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
