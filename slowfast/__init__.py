"""Train and test UniFormer video classifiers: one config tree, one path from a video to its scores."""

import warnings

__version__ = "0.1.0"

# timm calls it at import, in every process; there is nothing that a user could do about it.
warnings.filterwarnings(
    "ignore", message="`torch.jit.script` is deprecated", category=FutureWarning
)
