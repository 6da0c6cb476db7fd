"""Conversion of a folder of videos in parallel, which the same command can resume.

Each result is written under a temporary name beside its path, checked and renamed. So a result is
whole or absent, and whatever has its final name is done.
"""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import av

from slowfast.datasets.decode import DecodeError
from slowfast.datasets.frame_metadata import UnsupportedFrameError
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import current_job
from slowfast.preparation.process_pool import Failure, map_in_processes
from slowfast.preparation.video_files import find_video_paths
from slowfast.utils.progress_bar import progress_bar


class Conversion(NamedTuple):
    """The result of a conversion."""

    counts: Counter[str]  # videos by outcome
    failed_path: Path | None  # CSV file of the videos that failed, with reasons


class ConvertVideo(Protocol):
    """Converts one video and returns a word for the outcome."""

    def __call__(self, source: Path, target: Path, *, unfinished: Path) -> str:
        """Write to `unfinished`, a temporary path beside `target`, then rename it to `target`."""
        ...


class FolderConversion(NamedTuple):
    """What to convert, and into what."""

    name: str  # prefix of the files that describe the conversion
    videos: Path
    out: Path
    suffix: str  # suffix of the results, "" for folders
    settings: Mapping[str, Any]

    def run(self, convert: ConvertVideo, *, num_workers: int, timeout: float) -> Conversion:
        """Convert all videos and return what became of them.

        Args:
            convert: A picklable function that converts one video.
            num_workers: The number of processes.
            timeout: The time limit for one video, in seconds.

        Raises:
            FileNotFoundError: If there are no videos.
            FileExistsError: If `out` was made with other settings.
            FolderLockedError: If another conversion is writing to `out`.
            ValueError: If two videos have the same target, or `out` lies in `videos`.
        """
        tasks = self._list_tasks()
        self.out.mkdir(parents=True, exist_ok=True)
        counts: Counter[str] = Counter()
        failed_path = self.out / f"{self.name}_failed.csv"

        with (
            self._locked_with_settings(),
            failed_path.open(
                "w", newline="", encoding="utf-8", errors="surrogateescape"
            ) as failed_file,
            progress_bar(self.name, total=len(tasks), unit="video") as bar,
        ):
            report_failure = self._open_report(failed_file)
            outcomes = map_in_processes(
                partial(_attempt, convert=convert), tasks, num_workers=num_workers, timeout=timeout
            )
            for (source, _), outcome in outcomes:
                if isinstance(outcome, Failure):
                    report_failure(source, outcome.reason)
                    outcome = "failed"
                counts[outcome] += 1
                bar.set_postfix(failed=counts["failed"], refresh=False)
                bar.update()

        if not counts["failed"]:
            failed_path.unlink()
            return Conversion(+counts, None)
        return Conversion(counts, failed_path)

    def _list_tasks(self) -> list[tuple[Path, Path]]:
        """Return the path and the target of each video."""
        if self.out.resolve().is_relative_to(self.videos.resolve()):
            raise ValueError(
                f"{self.out} lies in {self.videos}, the folder of the videos. Choose another folder"
            )

        sources: dict[Path, Path] = {}
        for source in find_video_paths(self.videos):
            target = self.out / source.relative_to(self.videos).with_suffix(self.suffix)
            if target in sources:
                raise ValueError(
                    f"{sources[target]} and {source} would both become {target}. Rename one"
                )
            sources[target] = source

        if not sources:
            raise FileNotFoundError(f"{self.videos}: no such folder, or no videos in it")
        return [(source, target) for target, source in sources.items()]

    @contextmanager
    def _locked_with_settings(self) -> Iterator[None]:
        """Lock the output folder and make sure that its content was made with the same settings."""
        settings = json.dumps(self.settings)
        lock = FolderLock(
            self.out / f"{self.name}.lock",
            purpose="conversion",
            job=current_job(),
            remedy="choose another folder",
        )

        with lock, (self.out / f"{self.name}.json").open("a+") as file:
            file.seek(0)
            previous = file.read()
            if previous and previous != settings:
                raise FileExistsError(
                    f"{self.out} was made with {previous}, not {settings}. Choose another folder"
                )
            if not previous:
                file.write(settings)
                file.flush()
            yield

    def _open_report(self, file: IO[str]) -> Callable[[Path, str], None]:
        """Write the header of the list of failures and return a function that adds a row."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "reason"])

        def add(source: Path, reason: str) -> None:
            writer.writerow([source.relative_to(self.videos), reason])
            file.flush()

        return add


def _attempt(task: tuple[Path, Path], *, convert: ConvertVideo) -> str | Failure:
    source, target = task
    unfinished = target.with_name(f".{target.name}.part")  # a rename in one folder is atomic
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(unfinished)
    try:
        return convert(source, target, unfinished=unfinished)
    except (DecodeError, UnsupportedFrameError, av.FFmpegError, OSError) as error:
        _remove(unfinished)
        reason = str(error).removeprefix(f"{source}: ")
        return Failure("failed", " ".join(reason.split()))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
