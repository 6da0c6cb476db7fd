"""The format pt2: a program of torch.export, for any process with torch."""

import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from slowfast.exporting.capture import ExportOptions
from slowfast.exporting.description import METADATA_KEY

EXTRA_FILE = f"{METADATA_KEY}.json"  # name of the description among the `extra_files`


def to_pt2(
    program: ExportedProgram, options: ExportOptions, *, description: Mapping[str, Any]
) -> bytes:
    """Return a program with its description as the content of a .pt2 file."""
    file = io.BytesIO()
    text = json.dumps(description)
    with warnings.catch_warnings():
        # Weights in channels-last order. torch saves them as they are.
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, file, extra_files={EXTRA_FILE: text})
    return file.getvalue()


class Pt2Session:
    """An open .pt2 file.

    Args:
        content: Content of the file.
    """

    def __init__(self, content: bytes) -> None:
        self._module = torch.export.load(io.BytesIO(content)).module()

    @torch.inference_mode()
    def run(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """Return the output (B, K) of frames (B, C, T, H, W)."""
        scores: NDArray[np.float32] = self._module(torch.from_numpy(frames)).numpy()
        return scores
