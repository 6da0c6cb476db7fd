"""Fuzzing of videos and lists: what is read is correct, or an error names the problem."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

from slowfast.datasets import published_lists
from slowfast.datasets.annotation_lists import Source, format_row, read_frame_list, read_path_list
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.class_name_files import read_class_names
from slowfast.datasets.decode import DecodeError, VideoFile
from slowfast.datasets.decoding.ffmpeg_log import forward_errors
from tests.alone import run_alone
from tests.resources import left_since, resources

Images = list[NDArray[Any]]

SEED = 20_241
NUM_CASES = 300
MAX_GROWTH = 20 << 20  # bytes of memory after the first cases
MOST_CHARACTERS = 1000  # of one line of a message
B_FRAMES = {"g": "8", "bf": "2"}
HEVC = {"x265-params": "keyint=8:bframes=2:log-level=none:pools=none:frame-threads=1"}
KINDS = [  # suffix, codec and options of a video
    (".mp4", "libx264", B_FRAMES),
    (".mp4", "libx264", {"g": "8", "bf": "0"}),
    (".mp4", "mpeg4", {"g": "8"}),
    (".mp4", "libx265", HEVC),
    (".mp4", "mjpeg", {}),
    (".mkv", "libx264", B_FRAMES),
    (".mkv", "libvpx-vp9", {"g": "8", "deadline": "realtime", "cpu-used": "8"}),
    (".mkv", "mpeg4", {"g": "8", "bf": "2"}),
    (".mkv", "mjpeg", {}),
    (".webm", "libvpx", {"g": "8", "deadline": "realtime", "cpu-used": "8"}),
    (".webm", "libvpx-vp9", {"g": "8", "deadline": "realtime", "cpu-used": "8"}),
    (".ts", "libx264", B_FRAMES),
    (".ts", "libx265", HEVC),
    (".ts", "mpeg2video", {"g": "8", "bf": "2"}),
    (".avi", "mpeg4", {"g": "8"}),
    (".avi", "mjpeg", {}),
    (".avi", "wmv2", {"g": "8"}),
]


class Decoded(NamedTuple):
    """Plain decode of a video from front to back."""

    images: Images
    times: list[int | None]  # presentation times in the time base of the stream
    is_reported: bool  # whether FFmpeg reported anything
    is_turned: bool  # whether the file asks players to rotate or mirror the frames


def write_video(path: Path, codec: str, options: dict[str, str], *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # x265 writes beyond its memory for some other sizes.
    sides = [32, 64] if codec == "libx265" else [32, 48, 64]
    width, height = (int(side) for side in rng.choice(sides, 2))

    num_frames = int(rng.integers(12, 31))
    frames = rng.integers(0, 60, (num_frames, height, width, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[8:24, number : number + 12] = 200

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"threads": "1", **options})
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def decode_plainly(path: Path) -> Decoded:
    images: Images = []
    times: list[int | None] = []
    is_reported = is_turned = False

    with av.logging.Capture() as log:
        try:
            with av.open(str(path), metadata_errors="ignore") as container:
                stream = container.streams.video[0]
                context = stream.codec_context
                context.thread_type, context.thread_count = "NONE", 1
                # Players keep the first size. A damaged header may not tell it.
                width, height = context.width, context.height

                for packet in container.demux(stream):
                    try:
                        frames = packet.decode()
                    except av.FFmpegError:
                        is_reported = True
                        continue

                    for frame in frames:
                        width, height = width or frame.width, height or frame.height
                        is_reported |= frame.is_corrupt
                        is_turned |= Type.DISPLAYMATRIX in frame.side_data
                        images.append(to_rgb(frame, width=width, height=height))
                        times.append(frame.pts)
        except (av.FFmpegError, IndexError, AttributeError):
            is_reported = True  # the file has no video, or FFmpeg has no decoder for it

    has_errors = any(level <= av.logging.ERROR for level, *_ in log)
    return Decoded(images, times, is_reported or has_errors, is_turned)


def to_rgb(frame: av.VideoFrame, *, width: int, height: int) -> NDArray[Any]:
    return np.asarray(frame.to_ndarray(format="rgb24", width=width, height=height), np.uint8)


class Original(NamedTuple):
    """Video before it is damaged."""

    suffix: str
    content: bytes
    images: Images


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Original]:
    folder = tmp_path_factory.mktemp("originals")
    made = []
    for seed, (suffix, codec, options) in enumerate(KINDS):
        path = folder / f"{seed}{suffix}"
        write_video(path, codec, options, seed=seed)
        plain = decode_plainly(path)
        assert not plain.is_reported
        made.append(Original(suffix, path.read_bytes(), plain.images))
    return made


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file in one to four ways."""
    for _ in range(rng.integers(1, 5)):
        data = bytearray(content)
        start = int(rng.integers(len(data)))
        length = int(rng.integers(1, 2 ** rng.integers(1, 11)))
        other = int(rng.integers(len(data)))
        kind = rng.choice(
            ["flip", "zero", "cut", "swap", "repeat", "insert"],
            p=[0.4, 0.12, 0.12, 0.12, 0.12, 0.12],
        )
        if kind == "flip":
            for position in rng.integers(len(data), size=rng.integers(1, 9)):
                data[position] ^= 1 << rng.integers(8)
        elif kind == "zero":
            data[start : start + length] = bytes(len(data[start : start + length]))
        elif kind == "cut":
            del data[max(start, len(data) // 8) :]
        elif kind == "swap":
            first, second = sorted((start, other))
            length = min(length, second - first, len(data) - second)
            one, two = data[first : first + length], data[second : second + length]
            data[first : first + length], data[second : second + length] = two, one
        elif kind == "repeat":
            data[other:other] = data[start : start + length]
        else:
            data[start:start] = rng.bytes(length)
        content = bytes(data)
    return content


# ---- Videos


def check_video(seed: int, originals: list[Original], folder: Path) -> tuple[int, int]:
    """Read random frames of a damaged video. Return how many were right and how many refused."""
    rng = np.random.default_rng(seed)
    original = originals[rng.integers(len(originals))]
    path = folder / f"v{original.suffix}"
    path.write_bytes(mutate(original.content, rng))
    plain = decode_plainly(path)

    num_right = num_refused = 0
    messages: list[str] = []
    for allow_truncated in (False, True):
        try:
            video = VideoFile(str(path), allow_truncated=allow_truncated)
        except DecodeError as error:
            messages.append(str(error))
            num_refused += 1
            continue

        with video:
            for _ in range(3):
                numbers = rng.integers(video.num_frames, size=rng.integers(1, 6)).tolist()
                try:
                    images = video.read(numbers)
                except DecodeError as error:
                    messages.append(str(error))
                    num_refused += len(numbers)
                    continue

                num_right += len(numbers)
                for number, image in zip(numbers, images, strict=True):
                    expected = right_images(number, video, plain=plain, original=original)
                    is_right = any(np.array_equal(image, other) for other in expected)
                    name = f"frame {number} of {video.num_frames} of {path}"
                    assert is_right, f"seed {seed}: {name}"

    assert all(message.startswith(f"{path}: ") for message in messages), messages
    return num_right, num_refused


def right_images(
    number: int, video: VideoFile, *, plain: Decoded, original: Original
) -> Iterator[NDArray[Any]]:
    """Yield the images that a frame may show, in each orientation if damage turns the video."""
    for image in upright_images(number, video, plain=plain, original=original):
        yield image
        if plain.is_turned:
            turned = [np.rot90(image, quarters) for quarters in range(4)]
            yield from (*turned, *map(np.fliplr, turned))


def upright_images(
    number: int, video: VideoFile, *, plain: Decoded, original: Original
) -> Iterator[NDArray[Any]]:
    """Yield the images that a frame may show, as they are encoded.

    They are the one of the plain decode and, if that reported damage, the original one. If the
    decoder lost frames, the plain decode shows the others at their times.
    """
    table = video.frame_table
    if table is None or len(plain.images) == video.num_frames:
        yield from plain.images[number : number + 1]
    if table is not None:
        time = int(table.frames[number, 0])
        images_at_times = zip(plain.images, plain.times, strict=True)
        yield from (image for image, other in images_at_times if other == time)
    if plain.is_reported:
        yield from original.images[number : number + 1]


@pytest.mark.parametrize(
    "num_cases", [NUM_CASES, pytest.param(10 * NUM_CASES, marks=pytest.mark.soak)]
)
def test_a_damaged_video_shows_what_a_plain_decode_shows(
    num_cases: int, originals: list[Original], tmp_path: Path
) -> None:
    num_right, num_refused = run_alone(check_videos, num_cases, originals, tmp_path)
    assert num_right > num_cases
    assert num_refused > num_cases


def check_videos(num_cases: int, originals: list[Original], folder: Path) -> tuple[int, int]:
    """Check damaged videos, and that they leave nothing behind in this new process.

    In a process of other tests, the threads and caches that those leave end at any time.

    Returns:
        Numbers of right and of refused frames.
    """
    forward_errors()
    seeds = range(SEED, SEED + num_cases)
    warm_up, rest = seeds[: NUM_CASES // 3], seeds[NUM_CASES // 3 :]
    counts = [check_video(seed, originals, folder) for seed in warm_up]
    before = resources()
    counts += [check_video(seed, originals, folder) for seed in rest]

    assert not left_since(before)
    assert resources().memory - before.memory < MAX_GROWTH
    num_right, num_refused = np.sum(counts, axis=0).tolist()
    return num_right, num_refused


# ---- Lists

NUM_CLASSES = 5
CLASS_NAMES = ["air drumming", "zumba", "eating cake", "clay, pottery", "été"]
PATHS = ["a.mp4", "b c/d.mp4", "é/世界.webm", "x,y.mp4", "x;y.avi", "'q'.mp4", 'say "hi".mp4']
PATHS += [" blank.mp4 ", "/data/k400/v_1.mp4", "1 2/3 4.mp4", "no suffix", "~/v.mp4"]
PATHS += ["http://host/a b.mp4", "a.mp4.gz", "12"]

# Bytes that are inserted into lists at random: control characters, line ends, quotes, separators,
ODD = [b"\0", b"\xff\xfe", b"\xc3", b"\r", b"\r\n", b"\n", b"\n\n", b"\x1b[31m"]
ODD += [b'"', b'""', b"'", b",", b";", b"\t", b" "]
# numbers,
ODD += [b"-", b"-1", b"1e9", b"9" * 30, b"9" * 5000, b"2147483648", b"999999999", b"1.5"]
ODD += [b"nan", b"inf", b"0x1"]
# pieces of JSON,
ODD += [b"null", b"true", b"[", b"]", b"{", b"}", b":", b"\\", b"\\u0000", b"\\ud800"]
ODD += [b"[" * 2000, b'{"a":' * 500]
# and unusual characters.
ODD += ["²".encode(), "\u2028".encode(), "\ufeff".encode(), "\u202e".encode(), "\x85".encode()]
ODD += [b"\x0c", b"a" * 10_000]

Read = Callable[[str], Annotations | list[str]]


def draw_rows(rng: np.random.Generator) -> list[tuple[str, int]]:
    return [
        (str(rng.choice(PATHS)), int(rng.integers(NUM_CLASSES))) for _ in range(rng.integers(1, 8))
    ]


def draw_path_list(rng: np.random.Generator) -> tuple[str, Read]:
    separator = str(rng.choice([",", ";", "\t", " "]))
    rows = draw_rows(rng)
    if rng.random() < 0.3:
        text = "".join(format_row(path, label, separator=separator) for path, label in rows)
    elif rng.random() < 0.5:
        text = ""
        for path, label in rows:
            span = np.sort(rng.uniform(0, 100, 2))
            text += format_row(path, label, *span, separator=separator)
    else:
        file = io.StringIO()
        csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(rows)
        text = file.getvalue()

    given = separator if rng.random() < 0.5 else ""
    return text, lambda path: read_path_list(
        Source(path, NUM_CLASSES, separator=given, may_lack_labels=True)
    )


def draw_frame_list(rng: np.random.Generator) -> tuple[str, Read]:
    lengths = rng.integers(1, 1000, 8)
    rows = [
        format_row(path, length, label, separator=" ")
        for (path, label), length in zip(draw_rows(rng), lengths, strict=False)
    ]
    return "".join(rows), lambda path: read_frame_list(
        Source(path, NUM_CLASSES, may_lack_labels=True)
    )


def read_published(read: Callable[[Source], Annotations], video_template: str = "") -> Read:
    """Return the reader of a published list as a function of the path alone."""
    return lambda path: read(
        Source(
            path,
            split_name="train",
            class_names=tuple(CLASS_NAMES),
            video_template=video_template,
        )
    )


def draw_kinetics(rng: np.random.Generator) -> tuple[str, Read]:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
    for path, label in draw_rows(rng):
        writer.writerow([CLASS_NAMES[label], path, int(rng.integers(100)), 110, "train"])
    template = "{youtube_id}_{time_start:06d}.mp4"
    return file.getvalue(), read_published(published_lists.read_kinetics, template)


def draw_something_v2(rng: np.random.Generator) -> tuple[str, Read]:
    rows = [
        {"id": path, "template": CLASS_NAMES[label], "label": "x"} for path, label in draw_rows(rng)
    ]
    text = json.dumps(rows, ensure_ascii=bool(rng.integers(2)))
    return text, read_published(published_lists.read_something_v2, "{id}.webm")


def draw_something_v1(rng: np.random.Generator) -> tuple[str, Read]:
    text = "".join(f"{path};{CLASS_NAMES[label]}\n" for path, label in draw_rows(rng))
    return text, read_published(published_lists.read_something_v1, "{id}")


def draw_ucf101(rng: np.random.Generator) -> tuple[str, Read]:
    text = "".join(f"{CLASS_NAMES[label]}/{path} {label + 1}\n" for path, label in draw_rows(rng))
    return text, read_published(published_lists.read_ucf101)


def draw_class_names(rng: np.random.Generator) -> tuple[str, Read]:
    names = [str(name) for name in rng.permutation(CLASS_NAMES)]
    texts = [
        "".join(f"{name}\n" for name in names),
        "".join(f"{label},{name}\n" for label, name in enumerate(names)),
        json.dumps(names),
        json.dumps({name: label for label, name in enumerate(names)}),
        json.dumps(dict(enumerate(names))),
    ]
    return str(rng.choice(texts)), read_class_names


DRAWN = [draw_path_list, draw_path_list, draw_frame_list, draw_kinetics, draw_something_v2]
DRAWN += [draw_something_v1, draw_ucf101, draw_class_names]
WHOLE_LIST = [
    "the list is empty",
    "not text in UTF-8",
    "no rows of the split",
    "expected a JSON",
    "recursion depth",
]


def check_list(seed: int, path: Path) -> bool:
    """Read a damaged list, and return whether it was accepted."""
    rng = np.random.default_rng(seed)
    draw = DRAWN[rng.integers(len(DRAWN))]
    text, read = draw(rng)
    content = text.encode()
    for _ in range(rng.integers(0, 4)):
        start = int(rng.integers(len(content) + 1))
        odd = ODD[rng.integers(len(ODD))]
        content = content[:start] + odd + content[start + int(rng.integers(4)) :]
    if rng.random() < 0.2:
        content = mutate(content or b"x", rng)
    path.write_bytes(content)

    try:
        rows = read(str(path))
    except (ValueError, OSError) as error:
        check_message(error, path, has_lines=draw is not draw_class_names)
        return False
    if isinstance(rows, Annotations):
        check_rows(rows, content.decode("utf-8-sig"))
    return True


def check_message(error: Exception, path: Path, *, has_lines: bool) -> None:
    message = str(error)
    assert type(error) in (ValueError, OSError), repr(error)
    assert message.startswith(str(path)), message
    assert max(map(len, message.splitlines())) <= MOST_CHARACTERS, message
    assert all(line.isprintable() for line in message.splitlines()), repr(message)
    if has_lines and not any(words in message for words in WHOLE_LIST):
        assert "line " in message or "entry " in message or "char " in message, message


def check_rows(rows: Annotations, text: str) -> None:
    """Check that each row has a valid label, number of frames and span."""
    videos = [rows[row] for row in range(len(rows))]
    assert videos
    for video in videos:
        assert video.path
        assert video.label in (range(NUM_CLASSES) if rows.is_labeled else [-1])
        assert video.num_frames is None or 0 < video.num_frames < 1e9
        assert video.span is None or 0 <= video.span.start < video.span.end
        with suppress(DecodeError):
            VideoFile(video.path).close()


@pytest.mark.parametrize(
    "num_cases", [NUM_CASES, pytest.param(10 * NUM_CASES, marks=pytest.mark.soak)]
)
def test_a_damaged_list_is_read_or_its_problem_named(num_cases: int, tmp_path: Path) -> None:
    num_accepted = run_alone(check_lists, num_cases, tmp_path / "list.txt")
    assert num_cases / 10 < num_accepted < num_cases * 9 / 10


def check_lists(num_cases: int, path: Path) -> int:
    """Check damaged lists, and that they leave nothing behind in this new process.

    Returns:
        Number of lists that were read.
    """
    seeds = iter(range(SEED, SEED + num_cases))
    accepted = [
        check_list(seed, path) for seed, _ in zip(seeds, range(NUM_CASES // 3), strict=False)
    ]
    before = resources()
    accepted += [check_list(seed, path) for seed in seeds]

    assert not left_since(before)
    assert resources().memory - before.memory < MAX_GROWTH
    return sum(accepted)
