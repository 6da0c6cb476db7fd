"""The formats of exported models, and the export of a classifier to one of them."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from slowfast.exporting import onnx_file
from slowfast.exporting.capture import ExportOptions, capture
from slowfast.exporting.description import describe
from slowfast.exporting.onnx_file import OnnxSession, to_onnx
from slowfast.exporting.pt2 import Pt2Session, to_pt2
from slowfast.inference.classifier import Classifier


class Session(Protocol):
    """An exported model that is ready to run."""

    def run(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """Return the output (B, K) of frames (B, C, T, H, W)."""
        ...


class Serialize(Protocol):
    """Function that turns a program into the content of a file."""

    def __call__(
        self, program: ExportedProgram, options: ExportOptions, *, description: Mapping[str, Any]
    ) -> bytes:
        """Return the content of the file."""
        ...


class Format(NamedTuple):
    """A format of exported models."""

    suffix: str  # of a file
    runtime: str  # package that runs it
    packages: Sequence[str]  # packages that writing and checking it needs, besides torch
    serialize: Serialize
    open: Callable[[bytes], Session]


FORMATS = {
    "pt2": Format(".pt2", "torch", (), to_pt2, Pt2Session),
    "onnx": Format(".onnx", "onnxruntime", onnx_file.PACKAGES, to_onnx, OnnxSession),
}


# The models ask torch.compiler.is_exporting, and programs are saved without example inputs.
CAN_EXPORT = hasattr(torch.compiler, "is_exporting")


def check_installed(file_format: str) -> None:
    """Raise ValueError if a package that a format needs is missing, or torch is too old.

    Args:
        file_format: Name of the format, a key of `FORMATS`.
    """
    if not CAN_EXPORT:
        raise ValueError(
            f"an export needs torch 2.7 or newer, but {torch.__version__} is installed. Update "
            "torch, or export in another environment"
        )

    packages = FORMATS[file_format].packages
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the format {file_format} needs {' and '.join(missing)}, which the extra [export] "
            f"brings. Run: pip install {' '.join(packages)}"
        )


def export_model(
    classifier: Classifier, file_format: str, options: ExportOptions | None = None
) -> bytes:
    """Return a classifier as the content of a file.

    The graph is exact in float32, without autocast.

    Args:
        classifier: The classifier, on the CPU.
        file_format: Name of the format, a key of `FORMATS`.
        options: What the exported model takes and returns.

    Raises:
        NotExportableError: If the model cannot be exported. The message says why.
        ValueError: If a package is missing, or the classifier is not on the CPU.
    """
    check_installed(file_format)
    options = options or ExportOptions()
    program = capture(classifier, options)
    description = describe(classifier, options)
    return FORMATS[file_format].serialize(program, options, description=description)
