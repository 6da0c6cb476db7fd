"""Capture: a classifier as one graph of plain operators, from the frames of clips to scores."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from slowfast.datasets.normalization import normalizing_scaling
from slowfast.inference.classifier import Classifier

FRAMES = "frames"  # name of the input
BATCH, HEIGHT, WIDTH = 0, 3, 4  # axes of the input that may be dynamic

# A model of your own may raise anything while its graph is captured. Other errors are our faults.
CAPTURE_ERRORS = (
    RuntimeError,  # also most errors of torch.export
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    KeyError,
    AssertionError,
)

_EXAMPLE_BATCH = 2  # torch.export takes an axis of length 1 for a fixed one
_EXTRA_WIDTH = 32  # pixels, so that height and width differ in the example


class NotExportableError(ValueError):
    """A model that cannot be exported, and why."""


@dataclass(frozen=True)
class ExportOptions:
    """What an exported model takes and returns.

    Attributes:
        uint8: Whether it takes pixels as uint8 and normalizes them, instead of normalized float32.
        softmax: Whether it returns probabilities instead of logits.
        any_size: Whether it takes frames of any height and width.
    """

    uint8: bool = False
    softmax: bool = False
    any_size: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frames."""
        return torch.uint8 if self.uint8 else torch.float32

    @property
    def output(self) -> str:
        """Name of the output."""
        return "probabilities" if self.softmax else "logits"

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """Names of the axes of the frames that have any length."""
        sides = {HEIGHT: "height", WIDTH: "width"} if self.any_size else {}
        return {BATCH: "batch", **sides}


class ExportedModel(nn.Module):
    """Normalization, a model and softmax in one module.

    Args:
        model: Model that takes normalized frames (B, C, T, H, W) to logits (B, K).
        options: What the module takes and returns.
        mean: Mean of each channel, in the range [0, 1].
        std: Standard deviation of each channel, in the range [0, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: nn.Module,
        options: ExportOptions,
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        scale, shift = normalizing_scaling(mean, std)
        self.register_buffer("scale", torch.from_numpy(scale).view(-1, 1, 1, 1))
        self.register_buffer("shift", torch.from_numpy(shift).view(-1, 1, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Return logits or probabilities (B, K) of frames (B, C, T, H, W)."""
        if self.options.uint8:
            frames = frames.to(torch.float32) * self.scale + self.shift
        logits = self.model(frames)
        return logits.softmax(dim=1) if self.options.softmax else logits


def capture(classifier: Classifier, options: ExportOptions) -> ExportedProgram:
    """Return the graph of a classifier in evaluation mode, for any batch size.

    It holds no path of this machine.

    Args:
        classifier: The classifier, on the CPU.
        options: What the graph takes and returns.

    Raises:
        NotExportableError: If the graph of the model cannot be captured, or its output is not of
            the shape (B, number of classes).
        ValueError: If the classifier is not on the CPU.
    """
    if classifier.device.type != "cpu":
        raise ValueError(f"the model is on {classifier.device}. Export it from the CPU: .to('cpu')")
    settings, name = classifier.settings, type(classifier.model).__name__
    module = ExportedModel(classifier.model, options, mean=settings.mean, std=settings.std).eval()
    size = settings.crop_size
    width = size + _EXTRA_WIDTH if options.any_size else size
    example = torch.zeros(
        (_EXAMPLE_BATCH, len(settings.mean), settings.num_frames, size, width), dtype=options.dtype
    )
    axes = dict.fromkeys(options.dynamic_axes, torch.export.Dim.DYNAMIC)

    try:
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes={FRAMES: axes})
    except CAPTURE_ERRORS as error:
        reason = _reason(error, any_size=options.any_size)
        raise NotExportableError(f"{name} cannot be exported: {reason}") from error

    _check_output(program, name=name, num_classes=len(classifier.class_names))
    _drop_stack_traces(program)
    program.example_inputs = None  # a whole clip, which would be saved too
    return program


def _reason(error: Exception, *, any_size: bool) -> str:
    """Return why a graph cannot be captured, and what to do, in one line."""
    text = str(error)
    fixed = {int(axis) for axis in re.findall(r"\.size\(\)\[(\d)\]", text)}
    if BATCH in fixed:
        return "it computes with one batch size only. Do not use len(frames) or int() of a size"
    if fixed & {HEIGHT, WIDTH}:
        return "it takes frames of one size only. Leave out --any-size"
    if type(error).__name__.startswith("GuardOnDataDependent"):
        return "it branches on the values of a tensor. Use torch.where or masks instead"

    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return f"{reason}. Try it without --any-size" if any_size else reason


def _check_output(program: ExportedProgram, *, name: str, num_classes: int) -> None:
    outputs = next(node for node in program.graph.nodes if node.op == "output").args[0]
    values = [output.meta.get("val") if hasattr(output, "meta") else output for output in outputs]
    shapes = [tuple(value.shape) if isinstance(value, Tensor) else value for value in values]
    if len(shapes) != 1 or not isinstance(values[0], Tensor) or len(shapes[0]) != 2:
        raise NotExportableError(
            f"{name} cannot be exported: it returns {len(shapes)} values of the shapes {shapes} "
            "instead of logits (B, K)"
        )
    if shapes[0][1] != num_classes:
        raise NotExportableError(
            f"{name} cannot be exported: it returns {shapes[0][1]} logits for {num_classes} classes"
        )


def _drop_stack_traces(program: ExportedProgram) -> None:
    """Remove the paths and lines of the source code from all nodes."""
    for graph in program.graph_module.modules():
        if isinstance(graph, GraphModule):
            for node in graph.graph.nodes:
                node.meta.pop("stack_trace", None)
