"""Conversion of videos to smaller videos or to folders of frames."""

import shutil
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from slowfast.datasets.decode import DecodeError, VideoFile, at_rate, check_template
from slowfast.datasets.frame_metadata import Orientation, read_orientation
from slowfast.preparation.encode import DEFAULT_FPS, Timing, choose_format, encode_frames
from slowfast.preparation.folder_conversion import Conversion, FolderConversion

MAX_CHUNK_BYTES = 256 << 20  # limit on the decoded frames in memory
TIMEOUT_SECONDS = 3600.0


def resize_videos(
    videos: Path,
    out: Path,
    *,
    short_side: int = 320,
    crf: int = 18,
    num_workers: int,
    timeout: float = TIMEOUT_SECONDS,
) -> Conversion:
    """Write each video below a folder as an H.264 file of limited size, without sound.

    Every frame is kept, with its time and colors and the shape of its pixels. Frames are turned
    upright, and both sides are made even. MP4 files of H.264 that are small enough are copied.

    Args:
        videos: The folder of the videos, at any depth.
        out: The folder of the results, with the same subfolders and the suffix .mp4.
        short_side: The largest short side of a frame in pixels, an even number.
        crf: The quality of x264, 0 to 51. Lower is better.
        num_workers: The number of processes.
        timeout: The time limit for one video, in seconds.

    Raises:
        FileNotFoundError: If there are no videos.
        FileExistsError: If `out` was made with other settings.
        FolderLockedError: If another conversion is writing to `out`.
        ValueError: If two videos would become the same file, or a setting is out of range.
    """
    if short_side < 2 or short_side % 2:
        raise ValueError(f"the short side is {short_side} pixels; H.264 needs an even number")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf is {crf}. Use 0 (best) to 51")

    settings = {"short_side": short_side, "crf": crf}
    conversion = FolderConversion("resize", videos, out, suffix=".mp4", settings=settings)
    convert = partial(_resize, short_side=short_side, crf=crf)
    return conversion.run(convert, num_workers=num_workers, timeout=timeout)


def extract_frames(
    videos: Path,
    out: Path,
    *,
    fps: float = 30,
    quality: int = 95,
    template: str = "{:05d}.jpg",
    num_workers: int,
    timeout: float = TIMEOUT_SECONDS,
) -> Conversion:
    """Write a folder of JPEG files for each video below a folder, named like the video.

    Args:
        videos: The folder of the videos, at any depth.
        out: The folder of the results, with the same subfolders.
        fps: Frames per second, selected as `ffmpeg -r` does. 0 means each frame of the file once.
        quality: The JPEG quality, 1 to 100. Higher is better.
        template: The file name of a frame, formatted with its number. Numbers start at 1.
        num_workers: The number of processes.
        timeout: The time limit for one video, in seconds.

    Raises:
        FileNotFoundError, FileExistsError, FolderLockedError: As in `resize_videos`.
        ValueError: If two videos would become the same folder, or a setting is out of range.
    """
    if fps < 0:
        raise ValueError(
            f"the frame rate is {fps}. Use frames per second, or 0 for each frame of the file"
        )
    if not 1 <= quality <= 100:
        raise ValueError(f"the quality is {quality}. Use 1 to 100 (best)")
    check_template(template)

    settings = {"fps": fps, "quality": quality, "template": template}
    conversion = FolderConversion("frames", videos, out, suffix="", settings=settings)
    convert = partial(_extract, fps=fps, quality=quality, template=template)
    return conversion.run(convert, num_workers=num_workers, timeout=timeout)


# ---- One video -----------------------------------------------------------------------------------


def _resize(source: Path, target: Path, *, unfinished: Path, short_side: int, crf: int) -> str:
    if _is_complete_mp4(target):
        return "there already"

    with VideoFile(str(source)) as video:
        num_frames, stream = video.num_frames, video.stream
        # Decode as training does: damage that only FFmpeg's log reports is lost in the result.
        frames = video.decode(range(num_frames))
        first = next(frames)
        output_format = choose_format(
            first, short_side=short_side, sample_aspect_ratio=video.sample_aspect_ratio
        )

        is_mp4 = source.suffix.lower() == ".mp4" and "mp4" in stream.container.format.name
        is_h264 = video.codec == "h264" and first.format.name == "yuv420p"
        has_size = (first.width, first.height) == (output_format.width, output_format.height)
        is_upright = read_orientation(first) == Orientation()
        if is_mp4 and is_h264 and has_size and is_upright:
            outcome = "copied"
            shutil.copyfile(source, unfinished)
        else:
            outcome = "resized"
            time_base = stream.time_base or 1 / (video.fps or DEFAULT_FPS)
            encode_frames(
                chain([first], frames),
                unfinished,
                timing=Timing(Fraction(time_base), video.fps),
                output_format=output_format,
                crf=crf,
            )

    with VideoFile(str(unfinished)) as video:
        if video.num_frames != num_frames:
            raise DecodeError(
                f"{source}: only {video.num_frames} of {num_frames} frames can be decoded"
            )
    unfinished.replace(target)
    return outcome


def _is_complete_mp4(path: Path) -> bool:
    """Whether an MP4 file exists and its boxes, which begin with their size, reach to its end."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        end, position = path.stat().st_size, 0

        while position < end:
            file.seek(position)
            size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if size == 1:  # a size of 64 bits follows
                size = int.from_bytes(file.read(8), "big")
            if size < 8:
                return size == 0 and kind == b"mdat"  # the box extends to the end of the file
            position += size
        return position == end > 0


def _extract(
    source: Path, target: Path, *, unfinished: Path, fps: float, quality: int, template: str
) -> str:
    if target.is_dir():
        return "there already"

    unfinished.mkdir()
    with VideoFile(str(source)) as video:
        resampled = at_rate(video, fps) if fps else None
        num_frames = resampled.num_ticks if resampled else video.num_frames
        chunk_size = max(MAX_CHUNK_BYTES // video.read([0]).nbytes, 1)

        for start in range(0, num_frames, chunk_size):
            indices = np.arange(start, min(start + chunk_size, num_frames))
            if resampled:
                indices = resampled.frames_at(indices)
            for number, frame in enumerate(video.read(indices.tolist()), start=start + 1):
                path = unfinished / template.format(number)
                Image.fromarray(frame).save(path, quality=quality)

    unfinished.replace(target)
    return "written"
