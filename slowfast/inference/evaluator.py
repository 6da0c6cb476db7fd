"""The evaluator: scores all views of each video with a model, group by group.

Validation and test take the same path. They differ in the views that their loaders ask for, and in
what takes the scores.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast.datasets.build import VideoLoader, build_normalize
from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch
from slowfast.datasets.view_groups import ViewGroup, ViewGroups, group_views
from slowfast.distributed.collectives import device, largest_over_ranks
from slowfast.evaluation.view_scores import ViewScores
from slowfast.inference.memory import explained_out_of_memory
from slowfast.inference.precision import amp_dtype
from slowfast.inference.prefetch import batches_on_device
from slowfast.inference.view_forward import forward_views
from slowfast.utils.progress import Progress


@dataclass(frozen=True)
class Evaluator:
    """Scores the videos of a loader with a model.

    Args:
        normalize: Function that turns the frames of a batch into the input of the model.
        amp: Autocast dtype, or None for float32.
        prefetch: Whether to copy batches to the GPU while it computes.
        log_period: Batches between two progress lines.
        memory_remedy: Settings that help if memory runs out, for the message.
    """

    normalize: Normalize
    amp: torch.dtype | None
    prefetch: bool = True
    log_period: int = 10
    memory_remedy: str = ""

    def score(
        self,
        model: nn.Module,
        loader: VideoLoader,
        *,
        title: str,
        take: Callable[[ViewScores], None],
        is_interrupted: Callable[[], bool] = lambda: False,
        live_values: Callable[[], dict[str, float]] = dict,
        watch: Callable[[Batch], None] = lambda batch: None,
    ) -> bool:
        """Score all videos that a loader loads in this process.

        Args:
            model: Model on its device.
            loader: Loader of a validation or a test.
            title: First words of each progress line.
            take: Function that takes the scores of each group of videos, in order.
            is_interrupted: Function that tells whether this process was asked to stop. It is called
                before each batch.
            live_values: Function that returns values for a live bar, see `Progress`.
            watch: Function that is shown each batch before it is scored.

        Returns:
            Whether all batches of all processes are scored. It is False if one of them was asked
            to stop.

        Raises:
            OutOfMemoryError: If the device does not have enough memory.
        """
        loaded = _watched(loader, watch)
        batches = batches_on_device(loaded, device()) if self.prefetch else loaded
        progress = Progress(
            batches,
            title,
            num_steps=len(loader),
            period=self.log_period,
            live_values=live_values,
        )

        was_training = model.training
        model.eval()
        with explained_out_of_memory(self.memory_remedy):
            is_complete = self.score_batches(
                model,
                progress,
                loader.eval_sampler.groups,
                take=take,
                is_interrupted=is_interrupted,
            )
        model.train(was_training)
        return is_complete

    @torch.inference_mode()
    def score_batches(
        self,
        model: nn.Module,
        batches: Progress[Batch],
        groups: ViewGroups,
        *,
        take: Callable[[ViewScores], None],
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Score the batches of this process, see `score`.

        The host takes the scores of one group while the device computes the next one.

        Args:
            model: Model in evaluation mode.
            batches: Batches of this process.
            groups: How the list is cut into forward passes.
            take: Function that takes the scores of each group.
            is_interrupted: See `score`.
        """
        is_stopped = False

        def until_stopped() -> Iterator[Batch]:
            nonlocal is_stopped
            for batch in batches:
                if is_stopped := is_interrupted():
                    return
                yield batch
                if batches.line_is_due():
                    batches.write_line()

        pending: PendingScores | None = None
        for group in group_views(until_stopped(), groups):
            scores = self._forward(model, group)
            if pending is not None:
                take(pending.wait())
            pending = PendingScores(scores, group, num_views=groups.num_views)

        if pending is not None:
            take(pending.wait())
        return not largest_over_ranks(float(is_stopped))

    def _forward(self, model: nn.Module, group: ViewGroup) -> Tensor:
        """Return the logits of all views of a group and of its padding, shape (P * B, K)."""
        scores = [
            forward_views(model, frames, normalize=self.normalize, amp=self.amp, device=device())
            for frames in group.frames
        ]
        return torch.cat(scores)


def _watched(batches: Iterable[Batch], watch: Callable[[Batch], None]) -> Iterator[Batch]:
    for batch in batches:
        watch(batch)
        yield batch


class PendingScores:
    """Scores on their way from the device. The host waits for them only to use them.

    Args:
        scores: Logits of a group on the device, shape (P * B, K).
        group: The group.
        num_views: Number of views of each video.
    """

    def __init__(self, scores: Tensor, group: ViewGroup, *, num_views: int) -> None:
        self._videos = group.videos
        self._unreadable = group.unreadable
        self._num_views = num_views
        self._scores = scores
        self._copied: torch.cuda.Event | None = None
        if scores.is_cuda:
            self._scores = torch.empty(scores.shape, pin_memory=True)
            self._scores.copy_(scores, non_blocking=True)
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record()

    def wait(self) -> ViewScores:
        """Wait for the scores and return them."""
        if self._copied is not None:
            self._copied.synchronize()
        num_videos = len(self._videos)
        logits = self._scores[: num_videos * self._num_views].numpy()
        scores = ViewScores(
            self._videos,
            logits.reshape(num_videos, self._num_views, -1),
            self._unreadable,
        )
        scores.logits[~scores.is_readable] = np.nan
        return scores


def build_evaluator(cfg: CfgNode) -> Evaluator:
    """Return the evaluator of a config."""
    return Evaluator(
        normalize=build_normalize(cfg),
        amp=amp_dtype(cfg.TRAIN.AMP, device()),
        prefetch=cfg.TRAIN.PREFETCH,
        log_period=cfg.LOG_PERIOD,
        memory_remedy=build_memory_remedy(cfg),
    )


def build_memory_remedy(cfg: CfgNode) -> str:
    """Return the settings that help if an evaluation runs out of memory."""
    return (
        f"a smaller TEST.VIEWS_PER_FORWARD (now {cfg.TEST.VIEWS_PER_FORWARD}), or a GPU that no "
        "other process uses"
    )
