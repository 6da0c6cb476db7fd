"""From videos to smaller videos, or to folders of frames: in parallel, each written whole or not at all.

What comes out is written under a temporary name beside its place, compared with its source, and renamed. So a run that
is stopped, at any moment, can go on later: whatever has its name already is done.
"""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.video.frame import PictureType
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from PIL import Image

from slowfast.datasets.decode import DecodeError, VideoFile, check_template
from slowfast.datasets.frame_metadata import (
    RGB,
    Orientation,
    UnsupportedFrameError,
    drop_transfer,
    matrix_of,
    orientation_of,
    range_of,
    scale_name,
)
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import current_job
from slowfast.preparation.lists import videos_below
from slowfast.preparation.process_pool import Failure, map_in_processes, progress_bar

# For clips that start anywhere: a keyframe, where decoding can start, at least every 32 frames; no B-frame that another
# one refers to, so that a decoder can leave out what is not asked for; none of the tools of H.264 that decode slowly. A
# clip of 16 of 64 frames then decodes about three times as fast as with x264's own settings, from files half as large
# again.
X264_OPTIONS = {
    "preset": "medium",
    "tune": "fastdecode",
    "g": "32",
    "b-pyramid": "none",
    "threads": "1",
}
SMPTE170M = 6  # AVColorSpace that RGB is converted to: BT.601, which readers that know no tags take all files for
CHUNK_BYTES = 256 << 20  # of decoded frames in memory

Convert = Callable[
    ..., str
]  # of a video, its target and a temporary name beside that; returns a word for the outcome


class Conversion(NamedTuple):
    """What became of the videos."""

    counts: Counter[str]  # by outcome
    failed_path: Path | None  # CSV file of the videos that failed, with reasons


def resize_videos(
    videos: Path,
    out: Path,
    *,
    short_side: int = 320,
    crf: int = 18,
    num_workers: int,
    timeout: float = 3600,
) -> Conversion:
    """Write all videos below a folder as H.264 files whose short side is at most `short_side` pixels, without sound.

    All frames, their times, their colors and the shape of their pixels are kept, with tags that say so. They are turned
    upright, and both sides made even. An MP4 file of H.264 that is small enough is copied as it is.

    Args:
        videos: folder of the videos, at any depth.
        out: folder for the files, at the same places with the suffix .mp4.
        short_side: pixels, even.
        crf: quality of x264.
        num_workers: processes.
        timeout: seconds that one video may take.

    Raises:
        FileNotFoundError: there are no videos.
        FileExistsError: `out` was made with other settings.
        FolderLockedError: another run writes to `out`.
        ValueError: two videos would become one file, or a setting cannot be.
    """
    if short_side < 2 or short_side % 2:
        raise ValueError(f"the short side is to be {short_side} pixels; H.264 needs an even number")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf is {crf}; use 0 (best) to 51")
    convert = partial(_resize, short_side=short_side, crf=crf)
    settings = {"short_side": short_side, "crf": crf}
    work = _Work("resize", videos, out, suffix=".mp4", settings=settings)
    return _convert_all(convert, work, num_workers=num_workers, timeout=timeout)


def extract_frames(
    videos: Path,
    out: Path,
    *,
    fps: float = 30,
    quality: int = 95,
    template: str = "{:05d}.jpg",
    num_workers: int,
    timeout: float = 3600,
) -> Conversion:
    """Write a folder of JPEG files for each video below a folder, at the same place, named as the video without suffix.

    Args:
        videos: folder of the videos, at any depth.
        out: folder for the folders.
        fps: frames per second, taken and repeated as `ffmpeg -r` does; 0 for the frames of the file, each once.
        quality: of JPEG, 1 to 100.
        template: file name of frame n, from 1.
        num_workers: processes.
        timeout: seconds that one video may take.

    Raises:
        FileNotFoundError, FileExistsError, FolderLockedError: as for resize_videos.
        ValueError: two videos would become one folder, or a setting cannot be.
    """
    if fps < 0:
        raise ValueError(
            f"the frame rate is {fps}; use frames per second, or 0 for all frames of the file"
        )
    check_template(template)
    if not 1 <= quality <= 100:
        raise ValueError(f"the quality is {quality}; use 1 to 100 (best)")
    convert = partial(_extract, fps=fps, quality=quality, template=template)
    settings = {"fps": fps, "quality": quality, "template": template}
    work = _Work("frames", videos, out, suffix="", settings=settings)
    return _convert_all(convert, work, num_workers=num_workers, timeout=timeout)


# ---- All videos ------------------------------------------------------------------------------------------------------


class _Work(NamedTuple):
    name: str
    videos: Path
    out: Path
    suffix: str  # of what a video becomes
    settings: Mapping[str, Any]


def _convert_all(convert: Convert, work: _Work, *, num_workers: int, timeout: float) -> Conversion:
    tasks = _tasks(work)
    work.out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    failed_path = work.out / f"{work.name}_failed.csv"
    with (
        _settings_kept(work),
        failed_path.open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as failed_file,
        progress_bar(work.name, total=len(tasks), unit="video") as bar,
    ):
        failed = csv.writer(failed_file, lineterminator="\n")
        failed.writerow(["path", "reason"])
        attempt = partial(_attempt, convert=convert)
        for (source, _), outcome in map_in_processes(
            attempt, tasks, num_workers=num_workers, timeout=timeout
        ):
            if isinstance(outcome, Failure):
                failed.writerow([source.relative_to(work.videos), outcome.reason])
                failed_file.flush()
            counts["failed" if isinstance(outcome, Failure) else outcome] += 1
            bar.set_postfix(failed=counts["failed"], refresh=False)
            bar.update()
    if not counts["failed"]:
        failed_path.unlink()
    return Conversion(+counts, failed_path if counts["failed"] else None)


def _tasks(work: _Work) -> list[tuple[Path, Path]]:
    """Each video and what it becomes."""
    if work.out.resolve().is_relative_to(work.videos.resolve()):
        raise ValueError(
            f"{work.out} lies in {work.videos}, whose videos are to be read; choose another folder"
        )
    sources: dict[Path, Path] = {}
    for source in videos_below(work.videos):
        target = work.out / source.relative_to(work.videos).with_suffix(work.suffix)
        if target in sources:
            raise ValueError(
                f"{sources[target]} and {source} would both become {target}; rename one"
            )
        sources[target] = source
    if not sources:
        raise FileNotFoundError(f"{work.videos}: no such folder, or no videos in it")
    return [(source, target) for target, source in sources.items()]


@contextmanager
def _settings_kept(work: _Work) -> Iterator[None]:
    """Make sure that a folder holds what was made with the same settings, and that no other run adds to it."""
    settings = json.dumps(work.settings)
    folder_lock = FolderLock(
        work.out / f"{work.name}.lock",
        purpose="conversion",
        job=current_job(),
        remedy="choose another folder",
    )
    with folder_lock, (work.out / f"{work.name}.json").open("a+") as file:
        file.seek(0)
        before = file.read()
        if before and before != settings:
            raise FileExistsError(
                f"{work.out} was made with {before}, not {settings}; choose another folder"
            )
        if not before:
            file.write(settings)
            file.flush()
        yield


def _attempt(task: tuple[Path, Path], *, convert: Convert) -> str | Failure:
    source, target = task
    part = target.with_name(
        f".{target.name}.part"
    )  # in the same folder, so that a rename is all that is left to do
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(part)
    try:
        return convert(source, target, part=part)
    except (DecodeError, UnsupportedFrameError, av.FFmpegError, OSError) as error:
        _remove(part)
        return Failure("failed", " ".join(str(error).removeprefix(f"{source}: ").split()))


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
    part.unlink(missing_ok=True)


# ---- One video -------------------------------------------------------------------------------------------------------


class _Form(NamedTuple):
    """What the frames of a resized video are like: upright, in yuv420p of limited range."""

    width: int
    height: int
    sample_aspect_ratio: Fraction
    matrix: int  # AVColorSpace, and so on
    primaries: int
    transfer: int


def _resize(source: Path, target: Path, *, part: Path, short_side: int, crf: int) -> str:
    if _is_whole(target):
        return "there already"
    with VideoFile(str(source)) as video:
        num_frames, stream = video.num_frames, video.stream
        # Read as in training: damage that only FFmpeg's log tells would be invisible in what is written.
        frames = video.decode(range(num_frames))
        first = next(frames)
        form = _resized(first, short_side=short_side, sample_aspect_ratio=video.sample_aspect_ratio)
        is_mp4 = source.suffix.lower() == ".mp4" and "mp4" in stream.container.format.name
        is_fine = is_mp4 and video.codec == "h264" and first.format.name == "yuv420p"
        is_small = (
            form[:2] == (first.width, first.height) and orientation_of(first) == Orientation()
        )
        if is_fine and is_small:
            outcome = "copied"
            shutil.copyfile(source, part)
        else:
            outcome = "resized"
            _encode(chain([first], frames), part, stream=stream, form=form, fps=video.fps, crf=crf)

    with VideoFile(str(part)) as video:
        if video.num_frames != num_frames:
            raise DecodeError(
                f"{source}: only {video.num_frames} of {num_frames} frames can be decoded"
            )
    part.replace(target)
    return outcome


def _is_whole(path: Path) -> bool:
    """Whether there is an MP4 file whose boxes, each of which starts with its size, fill it to its end."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        end, place = path.stat().st_size, 0
        while place < end:
            file.seek(place)
            size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if size == 1:  # the size has 64 bits, and stands here
                size = int.from_bytes(file.read(8), "big")
            if size < 8:
                return size == 0 and kind == b"mdat"  # frames up to the end of the file
            place += size
        return place == end > 0


def _resized(frame: av.VideoFrame, *, short_side: int, sample_aspect_ratio: Fraction) -> _Form:
    """What a video becomes whose first frame is given: at most short_side and even, as near to the shape as can be."""
    width, height = frame.width, frame.height
    if orientation_of(frame).is_transposed:
        width, height, sample_aspect_ratio = height, width, 1 / sample_aspect_ratio
    scale = min(short_side / min(width, height), 1)
    even_width = max(int(width * scale / 2 + 1e-6) * 2, 2)
    even_height = max(int(height * scale / 2 + 1e-6) * 2, 2)

    # Where one side is rounded more than the other, the pixels make up for it.
    stretch = Fraction(width, height) * Fraction(even_height, even_width)
    matrix = matrix_of(frame)
    return _Form(
        even_width,
        even_height,
        (sample_aspect_ratio * stretch).limit_denominator(1000),
        matrix=SMPTE170M if matrix == RGB else matrix,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
    )


def _encode(
    frames: Iterable[av.VideoFrame],
    path: Path,
    *,
    stream: VideoStream,
    form: _Form,
    fps: Fraction,
    crf: int,
) -> None:
    """Write frames as H.264, with their times from 0 on."""
    time_base = stream.time_base or 1 / (fps or Fraction(25))
    step = max(round(1 / (time_base * (fps or 25))), 1)
    first = last = None
    with av.open(str(path.absolute()), "w", format="mp4") as writer:
        output = writer.add_stream(
            "libx264", rate=fps or 25, options=X264_OPTIONS | {"crf": str(crf)}
        )
        output.width, output.height = form.width, form.height
        output.pix_fmt = "yuv420p"
        encoder = output.codec_context
        encoder.time_base = time_base
        encoder.sample_aspect_ratio = form.sample_aspect_ratio
        encoder.colorspace, encoder.color_range = form.matrix, ColorRange.MPEG
        encoder.color_primaries, encoder.color_trc = form.primaries, form.transfer
        for frame in _scaled(frames, time_base=time_base, form=form):
            # Containers without times, as AVI, may repeat one or lack it: such a frame follows after the usual step.
            if last is not None and (frame.pts is None or frame.pts <= last):
                frame.pts = last + step
            last = frame.pts = frame.pts or 0
            first = last if first is None else first
            frame.pts -= first
            frame.time_base = time_base
            frame.pict_type = PictureType.NONE  # the encoder chooses, not the source
            writer.mux(output.encode(frame))
        writer.mux(output.encode(None))


def _scaled(
    frames: Iterable[av.VideoFrame], *, time_base: Fraction, form: _Form
) -> Iterator[av.VideoFrame]:
    """The frames in one form, through FFmpeg's filters; their own size, colors and orientation may change."""
    kind, graph = None, Graph()
    for frame in frames:
        frame.colorspace, frame.color_range = matrix_of(frame), range_of(frame)
        drop_transfer(frame)
        orientation = orientation_of(frame)
        found = (
            frame.width,
            frame.height,
            frame.format.name,
            frame.colorspace,
            frame.color_range,
            orientation,
        )
        if kind != found:
            kind, graph = found, _graph(frame, orientation, time_base=time_base, form=form)
        graph.vpush(frame)
        yield graph.vpull()


def _graph(
    frame: av.VideoFrame, orientation: Orientation, *, time_base: Fraction, form: _Form
) -> Graph:
    """Filters for frames like one: they scale it, convert its colors if they are others, and turn it upright."""
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(time_base),
        pixel_aspect="1/1",
        colorspace=str(frame.colorspace),
        range=str(frame.color_range),
    )
    size = (form.height, form.width) if orientation.is_transposed else (form.width, form.height)
    colors = f"out_color_matrix={scale_name(form.matrix)}:out_range=tv"
    if frame.colorspace != RGB:
        colors += f":in_color_matrix={scale_name(frame.colorspace)}"
    graph.link_nodes(
        source,
        graph.add("scale", f"{size[0]}:{size[1]}:flags=bicubic+accurate_rnd:{colors}"),
        graph.add("format", "yuv420p"),
        *(graph.add(*text.split("=")) for text in orientation.filters()),
        graph.add("buffersink"),
    ).configure()
    return graph


def _extract(
    source: Path, target: Path, *, part: Path, fps: float, quality: int, template: str
) -> str:
    if target.is_dir():
        return "there already"
    part.mkdir()
    with VideoFile(str(source)) as video:
        resampled = video.at_rate(fps) if fps else None
        total = resampled.num_ticks if resampled else video.num_frames
        chunk = max(CHUNK_BYTES // video.read([0]).nbytes, 1)
        for start in range(0, total, chunk):
            numbers = np.arange(start, min(start + chunk, total))
            if resampled:
                numbers = resampled.frames_at(numbers)
            for number, frame in enumerate(video.read(numbers.tolist()), start=start + 1):
                Image.fromarray(frame).save(part / template.format(number), quality=quality)
    part.replace(target)
    return "written"
