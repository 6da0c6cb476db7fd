"""Training, testing and use of UniFormer video classifiers, driven by one config tree."""

import warnings

__version__ = "0.1.0"

# timm triggers this warning when it is imported, and users can do nothing about it.
warnings.filterwarnings(
    "ignore", message="`torch.jit.script` is deprecated", category=FutureWarning
)
