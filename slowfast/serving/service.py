"""The service behind the page and the JSON endpoint: both have the same limits and one queue."""

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from slowfast.inference.classifier import Classifier
from slowfast.serving.analysis import Result, analyze
from slowfast.serving.recordings import drop_cut_packet
from slowfast.serving.refusal import RefusedError
from slowfast.serving.request_queue import RequestQueue
from slowfast.serving.uploads import Uploads
from slowfast.serving.video_limits import check_video


class Service:
    """Classifies uploads and examples.

    Args:
        classifiers: The models by name.
        uploads: The files of the clients.
        queue: The queue of all requests.
        examples: Videos to pick, by name.
        max_seconds: Longest video to accept.

    Attributes:
        classifiers: The models by name.
        uploads: The files of the clients.
        queue: The queue of all requests.
        examples: Videos to pick, by name.
        max_seconds: Longest video to accept.
    """

    def __init__(
        self,
        classifiers: Mapping[str, Classifier],
        uploads: Uploads,
        *,
        queue: RequestQueue,
        examples: Mapping[str, Path],
        max_seconds: float,
    ) -> None:
        self.classifiers = classifiers
        self.uploads = uploads
        self.queue = queue
        self.examples = examples
        self.max_seconds = max_seconds

    @property
    def can_explain(self) -> bool:
        """Whether a model explains its predictions."""
        return any(classifier.can_explain for classifier in self.classifiers.values())

    def choose(self, models: Sequence[str]) -> dict[str, Classifier]:
        """Return models by their names, all for no name.

        Raises:
            RefusedError: If there is no such model.
        """
        for model in models:
            if model not in self.classifiers:
                raise RefusedError(
                    f"there is no model {model!r}. Choose from {', '.join(self.classifiers)}",
                    status=400,
                )
        chosen = [model for model in self.classifiers if model in models or not models]
        return {model: self.classifiers[model] for model in chosen}

    def find_example(self, name: str) -> Path:
        """Return the path of an example.

        Raises:
            RefusedError: If there is no such example.
        """
        if name not in self.examples:
            raise RefusedError("there is no such example", status=404)
        return self.examples[name]

    async def classify(
        self,
        path: Path,
        models: Sequence[str],
        *,
        name: str,
        with_frames: bool = False,
        with_overlay: bool = False,
    ) -> list[Result]:
        """Wait for the turn of a video, check it, and return what the models say about it.

        Args:
            path: The video.
            models: Names of the models, none for all.
            name: Name of the video in messages.
            with_frames: Whether to return the frames that the models saw.
            with_overlay: Whether to return the explanation of each model that has one.

        Raises:
            RefusedError: If the video is refused or unreadable, or too many requests wait.
        """
        work = partial(
            self._work,
            path=path,
            classifiers=self.choose(models),
            name=name,
            with_frames=with_frames,
            with_overlay=with_overlay,
        )
        return await self.queue.run(work)

    def _work(
        self,
        stopped: threading.Event,
        *,
        path: Path,
        classifiers: Mapping[str, Classifier],
        name: str,
        with_frames: bool,
        with_overlay: bool,
    ) -> list[Result]:
        check_video(path, name=name, max_seconds=self.max_seconds)
        if path.is_relative_to(self.uploads.folder):  # examples are not ours to change
            drop_cut_packet(path)
        return analyze(
            path,
            classifiers,
            name=name,
            stopped=stopped,
            with_frames=with_frames,
            with_overlay=with_overlay,
        )
