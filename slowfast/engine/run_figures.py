"""Figures that a run shows in its trackers: what it trains on, and what a validation found."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slowfast.datasets.build import VideoLoader
from slowfast.datasets.records import Batch
from slowfast.distributed.collectives import device
from slowfast.engine.mistakes import WorstMistakes
from slowfast.inference.evaluator import Evaluator
from slowfast.inference.view_forward import forward_views
from slowfast.visualization.background import Trackers
from slowfast.visualization.figures import (
    CaptionedClip,
    draw_clips,
    draw_confusion,
    draw_predictions,
)
from slowfast.visualization.trackers import IMPORT_LOCK

logger = logging.getLogger(__name__)

NUM_MISTAKES = 8
NUM_INPUTS = 2  # validation videos whose activations are shown
_MAX_VALUES = 1 << 20  # values of a histogram

ToPixels = Callable[[Tensor], NDArray[np.uint8]]  # a clip as it is stored to RGB (T, H, W, 3)


@dataclass(frozen=True)
class FigureOptions:
    """What a run shows besides curves.

    Args:
        num_train_clips: Number of augmented training clips to show at the start.
        has_graph: Whether to show the graph of the model.
        has_confusion: Whether to show the confusion matrix of each validation.
        confusion_size: Its width and height in inches.
        confusion_subset: Classes of one more confusion matrix, empty for none.
        categories: Classes of further ones, by name.
        has_predictions: Whether to show what the videos of each class are taken for.
        predictions_size: Width and height of these figures in inches.
        predictions_labels: Classes with such a figure.
        num_predictions: Number of predictions in each.
        has_mistakes: Whether to show the worst mistakes of each validation.
        mistakes_labels: Labels whose mistakes count, None for all.
        has_weights: Whether to show histograms of weights.
        has_activations: Whether to show histograms of activations.
        has_inputs: Whether to show the clips that the activations are of.
        layers: Patterns of the modules and parameters with histograms, empty for a default.
    """

    num_train_clips: int = 0
    has_graph: bool = False
    has_confusion: bool = False
    confusion_size: tuple[float, float] = (8, 8)
    confusion_subset: Sequence[int] = ()
    categories: Mapping[str, Sequence[int]] = field(default_factory=dict)
    has_predictions: bool = False
    predictions_size: tuple[float, float] = (8, 8)
    predictions_labels: Sequence[int] = ()
    num_predictions: int = 10
    has_mistakes: bool = False
    mistakes_labels: frozenset[int] | None = None
    has_weights: bool = False
    has_activations: bool = False
    has_inputs: bool = False
    layers: Sequence[str] = ()


class RunFigures:
    """Draws the figures of a run for its trackers. Without trackers, it does nothing.

    A figure that cannot be drawn is logged once and never stops the training.

    Args:
        trackers: Trackers of the run.
        options: What to show.
        class_names: Names of the classes.
        train_pixels: Function from a training clip to its pixels.
        val_pixels: Function from a validation clip to its pixels.
    """

    def __init__(
        self,
        trackers: Trackers,
        options: FigureOptions,
        *,
        class_names: Sequence[str],
        train_pixels: ToPixels,
        val_pixels: ToPixels,
    ) -> None:
        self._trackers = trackers
        self._options = options
        self._class_names = class_names
        self._train_pixels = train_pixels
        self._val_pixels = val_pixels
        self._failed: set[str] = set()

    def new_mistakes(self) -> WorstMistakes:
        """Return an empty collection of the worst mistakes of a validation.

        All processes collect them, although only the main one has trackers.
        """
        number = NUM_MISTAKES if self._options.has_mistakes else 0
        return WorstMistakes(number, labels=self._options.mistakes_labels)

    def draw_start(self, model: nn.Module, train_loader: VideoLoader) -> None:
        """Show what a new run trains on, and the graph of its model."""
        if not self._trackers:
            return
        if self._options.num_train_clips:
            with self._explained("train/clips"):
                self._draw_train_clips(train_loader)
        if self._options.has_graph:
            with self._explained("the model graph"):
                self._draw_graph(model, train_loader)

    def draw_validation(
        self,
        confusion: NDArray[np.int64],
        mistakes: WorstMistakes,
        val_loader: VideoLoader,
        *,
        step: int,
    ) -> None:
        """Show what a validation found.

        Args:
            confusion: Videos by label (row) and prediction (column), shape (K, K).
            mistakes: Its worst mistakes.
            val_loader: Loader of its videos.
            step: Number of finished training steps.
        """
        if not self._trackers:
            return
        if self._options.has_confusion:
            with self._explained("val/confusion_matrix"):
                self._draw_confusions(confusion, step=step)
        if self._options.has_predictions:
            with self._explained("val/predictions"):
                self._draw_predictions(confusion, step=step)
        if mistakes.worst:
            with self._explained("val/mistakes"):
                self._draw_mistakes(mistakes, val_loader, step=step)

    def draw_model(
        self, model: nn.Module, val_loader: VideoLoader, evaluator: Evaluator, *, step: int
    ) -> None:
        """Show the weights of a model, and its activations for a few validation videos."""
        if not self._trackers:
            return
        was_training = model.training
        model.eval()
        if self._options.has_weights:
            with self._explained("weights"):
                for name, weight in self._select(model.named_parameters()):
                    self._trackers.log_histogram(f"weights/{name}", _sample(weight), step=step)
        if self._options.has_activations or self._options.has_inputs:
            with self._explained("activations"):
                self._draw_activations(model, val_loader, evaluator, step=step)
        model.train(was_training)

    def _draw_train_clips(self, loader: VideoLoader) -> None:
        clips = []
        for row in _spread(self._options.num_train_clips, len(loader.dataset)):
            batch, name = _read(loader, row), loader.dataset.annotations[row].name
            if not batch.unreadable:
                caption = f"{self._name_of(int(batch.labels[0]))}\n{name}"
                clips.append(CaptionedClip(self._train_pixels(batch.frames[0]), caption))
        if clips:
            self._trackers.log_image("train/clips", draw_clips(clips), step=0)

    def _draw_graph(self, model: nn.Module, loader: VideoLoader) -> None:
        with IMPORT_LOCK:
            from slowfast.visualization.model_graph import trace_graph

        shape = loader.dataset.reader.clip_shape
        with torch.compiler.set_stance("force_eager"):
            traced = copy.deepcopy(model).cpu().eval()
            self._trackers.log_graph(trace_graph(traced, torch.zeros(1, *shape)))

    def _draw_confusions(self, confusion: NDArray[np.int64], *, step: int) -> None:
        options = self._options
        subsets: dict[str, Sequence[int]] = {"": range(len(self._class_names))}
        if options.confusion_subset:
            subsets["/subset"] = options.confusion_subset
        subsets |= {f"/{name}": classes for name, classes in options.categories.items()}

        for suffix, classes in subsets.items():
            image = draw_confusion(
                confusion, self._class_names, classes=classes, size=options.confusion_size
            )
            self._trackers.log_image(f"val/confusion_matrix{suffix}", image, step=step)

    def _draw_predictions(self, confusion: NDArray[np.int64], *, step: int) -> None:
        for label in self._options.predictions_labels:
            image = draw_predictions(
                confusion[label],
                self._class_names,
                label=label,
                num_shown=self._options.num_predictions,
                size=self._options.predictions_size,
            )
            self._trackers.log_image(f"val/predictions/{self._name_of(label)}", image, step=step)

    def _draw_mistakes(self, mistakes: WorstMistakes, loader: VideoLoader, *, step: int) -> None:
        clips = []
        for mistake in mistakes.worst:
            batch = _read(loader, mistake.row)
            if batch.unreadable:
                continue
            caption = (
                f"{self._name_of(mistake.label)}, taken for {self._name_of(mistake.prediction)} "
                f"({mistake.confidence:.0%})\n{loader.dataset.annotations[mistake.row].name}"
            )
            clips.append(CaptionedClip(self._val_pixels(batch.frames[0]), caption))
        if clips:
            self._trackers.log_image("val/mistakes", draw_clips(clips), step=step)

    def _draw_activations(
        self, model: nn.Module, loader: VideoLoader, evaluator: Evaluator, *, step: int
    ) -> None:
        batches = [_read(loader, row) for row in _spread(NUM_INPUTS, len(loader.dataset))]
        frames = [batch.frames[:1] for batch in batches if not batch.unreadable]
        if not frames:
            return
        if self._options.has_inputs:
            clips = [CaptionedClip(self._val_pixels(clip[0]), "") for clip in frames]
            self._trackers.log_image("activations/input", draw_clips(clips), step=step)
        if not self._options.has_activations:
            return

        modules = self._select(model.named_modules()) if self._options.layers else _parts(model)
        with _recorded(modules) as activations, torch.inference_mode():
            forward_views(
                model,
                torch.cat(frames),
                normalize=evaluator.normalize,
                amp=evaluator.amp,
                device=device(),
            )
        for name, values in activations.items():
            self._trackers.log_histogram(f"activations/{name}", values, step=step)

    def _select(self, named: Any) -> Iterator[tuple[str, Any]]:
        """Yield the modules or parameters that TENSORBOARD.MODEL_VIS.LAYER_LIST names."""
        patterns = [f"{pattern}{end}" for pattern in self._options.layers for end in ("", ".*")]
        for name, value in named:
            is_module = isinstance(value, nn.Module)
            wanted = self._options.layers if is_module else patterns
            if name and (not wanted or any(fnmatchcase(name, pattern) for pattern in wanted)):
                yield name, value

    def _name_of(self, label: int) -> str:
        return self._class_names[label] if 0 <= label < len(self._class_names) else str(label)

    @contextmanager
    def _explained(self, figure: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a figure runs into, the training goes on
            if figure not in self._failed:
                self._failed.add(figure)
                logger.warning("cannot show %s: %s: %s", figure, type(error).__name__, error)


def _read(loader: VideoLoader, row: int) -> Batch:
    """Return the views of a video of a list, as the loader samples them."""
    return loader.dataset[loader.batch_sampler.request(row)]


def _spread(number: int, num_rows: int) -> list[int]:
    """Return some rows that are spread over a list."""
    rows = np.linspace(0, num_rows - 1, min(number, num_rows))
    return [int(row) for row in rows.round()]


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a model: its children, and the blocks of its lists of blocks."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from ((f"{name}.{index}", block) for index, block in child.named_children())
        else:
            yield name, child


@contextmanager
def _recorded(modules: Iterator[tuple[str, nn.Module]]) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Record the outputs of some modules while the block runs a model on something."""
    outputs: dict[str, NDArray[np.float32]] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = _sample(output)

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in modules]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code would not call the hooks
            yield outputs
    finally:
        for handle in hooks:
            handle.remove()


def _sample(values: Tensor) -> NDArray[np.float32]:
    """Return at most a million values of a tensor, evenly spaced."""
    flat = values.detach().reshape(-1)
    stride = -(-flat.numel() // _MAX_VALUES)
    sampled: NDArray[np.float32] = flat[::stride].float().cpu().numpy().copy()
    return sampled
