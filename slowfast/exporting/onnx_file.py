"""The format ONNX: a graph for ONNX Runtime and others, without torch and without this package."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from slowfast.exporting.capture import CAPTURE_ERRORS, FRAMES, ExportOptions, NotExportableError
from slowfast.exporting.description import METADATA_KEY

if TYPE_CHECKING:
    from onnx import ModelProto

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra [export]

_MAX_BYTES = 2**31 - 2**20  # of the weights: a file of protobuf holds less than 2 GiB


def to_onnx(
    program: ExportedProgram, options: ExportOptions, *, description: Mapping[str, Any]
) -> bytes:
    """Return a program with its description as the content of an .onnx file.

    Raises:
        NotExportableError: If an operator of the model does not exist in ONNX, or the model is too
            large for one file.
    """
    num_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    if num_bytes > _MAX_BYTES:
        raise NotExportableError(
            f"the weights have {num_bytes / 2**30:.1f} GiB, but an ONNX file holds less than "
            "2 GiB. Use --format pt2"
        )

    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[FRAMES],
            output_names=[options.output],
            dynamic_shapes={FRAMES: options.dynamic_axes},
            external_data=False,
            verbose=False,
        )
    except CAPTURE_ERRORS as error:
        raise NotExportableError(
            f"the model cannot be exported to ONNX: {_reason(error)}. Use --format pt2"
        ) from error

    assert exported is not None
    model = exported.model_proto
    _drop_node_metadata(model)
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(description))
    return model.SerializeToString()


def _reason(error: BaseException) -> str:
    """Return why a program cannot be translated, in one line: that of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return reason.rstrip(".")


def _drop_node_metadata(model: "ModelProto") -> None:
    """Remove what torch notes about its own graph, such as paths and lines of source code."""
    graph = model.graph
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
    del graph.metadata_props[:]


class OnnxSession:
    """An open .onnx file, on the CPU with the number of threads of torch.

    Args:
        content: Content of the file.
    """

    def __init__(self, content: bytes) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def run(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """Return the output (B, K) of frames (B, C, T, H, W)."""
        scores: NDArray[np.float32] = self._session.run(None, {FRAMES: frames})[0]
        return scores
