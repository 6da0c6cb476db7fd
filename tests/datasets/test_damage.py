"""Damaged, truncated and joined files: what is read equals a plain decode that reported nothing, or is refused."""

import contextlib
import multiprocessing
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from slowfast.datasets import decode
from slowfast.datasets.decode import DecodeError, TruncatedError, VideoFile

Frames = list[NDArray[Any]]
PaintedNumber = Callable[[NDArray[np.uint8]], list[int]]

NUM_FRAMES = 60
CODECS = {  # by the suffix of the file
    ".mp4": ("libx264", {"g": "12", "bf": "2"}),
    ".mkv": ("libx264", {"g": "12", "bf": "2"}),
    ".ts": ("libx264", {"g": "12", "bf": "2"}),
    ".flv": ("libx264", {"g": "12", "bf": "2"}),
    ".mpg": ("mpeg2video", {"g": "12"}),
    ".avi": ("mpeg4", {"g": "12", "b": "4M"}),
    ".webm": ("libvpx", {"g": "12", "b": "300k"}),
    ".wmv": ("wmv2", {"g": "12"}),
    ".mov": ("mjpeg", {}),
    ".mjpeg": ("mjpeg", {}),
    ".ivf": ("libvpx", {"g": "12", "b": "300k"}),
    ".ogv": ("libvpx", {"g": "12", "b": "2M"}),
    ".mxf": ("mpeg2video", {"g": "12"}),
    ".nut": ("mpeg4", {"g": "12", "b": "4M"}),
    ".gif": ("gif", {}),
    ".y4m": ("wrapped_avframe", {}),
}
PIXEL_FORMATS = {
    "mjpeg": "yuvj420p",
    "gif": "rgb8",
}  # by the name of the codec, where it is not yuv420p


def draw(num_frames: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Noise of low contrast, over which a bright square moves."""
    frames = np.random.default_rng(seed).integers(0, 60, (num_frames, 48, 64, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[8:24, number % 48 : number % 48 + 16] = 200
    return frames


def write(
    path: Path,
    frames: NDArray[np.uint8] | None = None,
    *,
    codec: str = "",
    times: list[int] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode frames, 25 in a second; or `times` in milliseconds."""
    name, options = CODECS[path.suffix]
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(
            codec or name, rate=25, options={"threads": "1", **options}
        )
        stream.height, stream.width = 48, 64
        stream.pix_fmt = PIXEL_FORMATS.get(codec or name, "yuv420p")
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(draw(NUM_FRAMES) if frames is None else frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy_packets(source: Path, target: Path, *, first: int = 0, shift: float = 0.0) -> Path:
    """Copy the packets from one on, `shift` seconds later."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        video = container.streams.video[0]
        copy = output.add_stream_from_template(video)
        for number, packet in enumerate(container.demux(video)):
            if (
                packet.size
                and number >= first
                and packet.pts is not None
                and packet.dts is not None
            ):
                ticks = round(Fraction(shift) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, copy
                output.mux(packet)
    return target


def decode_plainly(path: Path) -> tuple[Frames, bool]:
    """All frames from front to back, and whether FFmpeg reported anything: the oracle."""
    frames: Frames = []
    is_reported = False
    with av.logging.Capture() as log, av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"  # what damage leads to may depend on it
        for packet in container.demux(video=0):
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                is_reported = True
                continue
            is_reported |= any(frame.is_corrupt for frame in decoded)
            frames += [frame.to_ndarray(format="rgb24") for frame in decoded]
    return frames, is_reported or any(level <= av.logging.ERROR for level, *_ in log)


def packets_of(path: Path) -> list[tuple[int, int, bool]]:
    """Position, size and whether it is a keyframe, of each packet."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return [(packet.pos or 0, packet.size, packet.is_keyframe) for packet in packets]


def cut_off(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


# ---- Damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mov", ""),
        (".avi", "mjpeg"),
        (".wmv", ""),
        (".avi", "wmv2"),
        (".ts", ""),
        (".avi", "msmpeg4"),
    ],
)
def test_damage_that_only_the_log_tells_is_not_shown(
    suffix: str, codec: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"v{suffix}", codec=codec)
    whole, content = decode_plainly(path)[0], path.read_bytes()
    rng = np.random.default_rng(1)
    num_reported = num_refused = 0
    for place, (position, size, _) in list(enumerate(packets_of(path)))[3::7]:
        damaged = bytearray(content)
        start = position + size // 3
        damaged[start : start + 12] = rng.bytes(12)
        path.write_bytes(damaged)
        plain, is_reported = decode_plainly(path)
        num_reported += is_reported
        try:
            with VideoFile(str(path)) as video:
                for number in (2, place, place + 1, 5, place - 1, 40, video.num_frames - 1):
                    try:
                        frame = video.read([number])[0]
                    except DecodeError:
                        num_refused += 1
                        continue
                    assert np.array_equal(
                        frame, plain[number] if not is_reported else whole[number]
                    )
        except DecodeError:
            num_refused += 1
    assert num_refused >= num_reported > 0


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_data_that_a_demuxer_skips_are_not_passed_over(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"v{suffix}")
    whole = decode_plainly(path)[0]
    position, size, _ = packets_of(path)[30]
    content = bytearray(path.read_bytes())
    content[position - 2 : position + size] = bytes(size + 2)  # also how long the element is
    path.write_bytes(content)
    assert len(decode_plainly(path)[0]) < NUM_FRAMES
    with pytest.raises(TruncatedError, match=r"damaged after 1\.\d\d s: .*pos"):
        VideoFile(str(path))
    with VideoFile(str(path), allow_truncated=True) as video:
        assert 0 < video.num_frames <= 30
        assert np.array_equal(video.read([20])[0], whole[20])


@pytest.mark.parametrize(("start", "is_refused"), [(14, True), (20, True), (30, False)])
def test_vp8_after_a_damaged_keyframe_is_the_same_in_any_order(
    start: int, is_refused: bool, tmp_path: Path
) -> None:
    # From byte 14, FFmpeg reports it; from 20, it shows what its memory held before; from 30, it decodes as well.
    images = np.full((24, 48, 64, 3), 40, np.uint8)
    for number, image in enumerate(images):
        image[8:24, number : number + 16] = 200
        image[30, number * 2 :] = 90
    path = write(tmp_path / "v.webm", images)
    whole, content = decode_plainly(path)[0], bytearray(path.read_bytes())
    position, size, is_key = packets_of(path)[12]
    assert is_key
    content[position + 4 + start : position + size] = b"\xff" * (size - 4 - start)
    path.write_bytes(content)
    plain, _ = decode_plainly(path)
    refused = set()
    with VideoFile(str(path)) as video:
        for number in [*range(24), *reversed(range(24))]:
            try:
                frame = video.read([number])[0]
            except DecodeError:
                refused.add(number)
            else:
                assert np.array_equal(frame, whole[number] if number < 12 else plain[number])
    assert refused == (set(range(12, 24)) if is_refused else set())


def test_pictures_in_another_order_than_their_times_are_refused(tmp_path: Path) -> None:
    path, swapped = write(tmp_path / "v.mp4"), tmp_path / "swapped.mp4"
    with av.open(str(path)) as container, av.open(str(swapped), "w") as output:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        copy = output.add_stream_from_template(container.streams.video[0])
        times = [packet.pts or 0 for packet in packets]
        place = next(place for place in range(20, 40) if times[place] < times[place - 1])
        packets[place - 1].pts, packets[place].pts = times[place], times[place - 1]
        for packet in packets:
            packet.stream = copy
            output.mux(packet)
    plain = decode_plainly(swapped)[0]
    with VideoFile(str(swapped)) as video:
        for number in range(NUM_FRAMES):
            try:
                frame = video.read([number])[0]
            except DecodeError:
                continue
            assert np.array_equal(frame, plain[number])
        with pytest.raises(DecodeError):
            video.read(range(NUM_FRAMES))


@pytest.mark.parametrize("segment", [b"\xff\xdb", b"\xff\xc4"])
def test_a_jpeg_without_its_tables_takes_those_of_the_one_before(
    segment: bytes, tmp_path: Path
) -> None:
    path = write(tmp_path / "v.mov")
    content = bytearray(path.read_bytes())
    position, size, _ = packets_of(path)[20]
    marker = content.index(segment, position, position + size)
    content[marker + 1] = 0xE5  # application data, which decoders skip
    path.write_bytes(content)
    plain, is_reported = decode_plainly(path)
    with VideoFile(str(path)) as video:
        try:
            frame = video.read([20])[0]
        except DecodeError:
            assert is_reported
        else:
            assert np.array_equal(frame, plain[20])
        assert np.array_equal(video.read([21])[0], plain[21])


def test_a_jpeg_whose_data_end_too_early_is_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mov")
    content = bytearray(path.read_bytes())
    position, size, _ = packets_of(path)[20]
    content[position + size - size // 4 : position + size - size // 4 + 2] = (
        b"\xff\xd9"  # the end of the image
    )
    path.write_bytes(content)
    with (
        VideoFile(str(path)) as video,
        pytest.raises(DecodeError, match=r"v\.mov: .*\(at frame 20\)"),
    ):
        video.read([20])


def test_mpeg4_damage_is_reported_wherever_reading_starts(tmp_path: Path) -> None:
    path = write(tmp_path / "v.avi")
    content = bytearray(path.read_bytes())
    position, size, is_key = packets_of(path)[24]
    assert is_key
    content[position + size - 1] = 0  # the stuffing at the end of the picture
    path.write_bytes(content)
    assert decode_plainly(path)[1]
    with VideoFile(str(path)) as video, pytest.raises(DecodeError, match=r"\(at frame 24\)"):
        video.read([24])


def stamp(ticks: int) -> bytes:
    """A time of presentation in a transport stream, where one of decoding follows."""
    middle, low = (ticks >> 15) & 0x7FFF, ticks & 0x7FFF
    return bytes(
        [0x31, (ticks >> 22) & 0xFF, (middle & 0x7F) << 1 | 1, low >> 7, (low & 0x7F) << 1 | 1]
    )


def test_a_time_before_those_of_the_last_group_is_no_time(tmp_path: Path) -> None:
    path = write(tmp_path / "v.ts")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    late = next(p for p in packets[30:] if p.pts != p.dts and not p.is_keyframe)
    content = path.read_bytes()
    assert content.count(stamp(late.pts or 0)) == 1
    path.write_bytes(content.replace(stamp(late.pts or 0), stamp((packets[0].pts or 0) + 5000)))

    plain, is_reported = decode_plainly(path)
    assert not is_reported
    with VideoFile(str(path)) as video:
        assert video.num_frames == len(plain)
        for number in (0, 7, 20, 33, 50):
            assert np.array_equal(video.read([number])[0], plain[number])


# ---- Joined files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize(
    ("first", "shift"), [(0, 0.5), (0, 1.01), (0, 2.3), (0, 9.0), (5, 0.5), (5, 9.0)]
)
def test_joined_recordings_are_read_as_they_lie(
    suffix: str, first: int, shift: float, tmp_path: Path
) -> None:
    # The first one has 2.4 seconds: the times of the second one begin within them, near their end, or later.
    one = write(tmp_path / f"one{suffix}")
    other = write(tmp_path / f"other{suffix}", draw(NUM_FRAMES, seed=1))
    other = copy_packets(other, tmp_path / f"later{suffix}", first=first, shift=shift)
    path = tmp_path / f"joined{suffix}"
    path.write_bytes(one.read_bytes() + other.read_bytes())

    plain, is_reported = decode_plainly(path)
    num_read = 0
    with VideoFile(str(path)) as video:
        assert video.num_frames == len(plain)
        for number in np.random.default_rng(0).permutation(len(plain))[:30].tolist():
            try:
                frame = video.read([number])[0]
            except DecodeError:
                assert is_reported
            else:
                num_read += 1
                assert np.array_equal(frame, plain[number])
    assert num_read >= (15 if is_reported else 30)


# ---- Truncated files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".flv"])
def test_half_a_video_is_refused_or_read_on_demand(suffix: str, tmp_path: Path) -> None:
    index_first = {"movflags": "faststart"} if suffix == ".mp4" else {}
    path = write(tmp_path / f"v{suffix}", container_options=index_first)
    whole = decode_plainly(path)[0]
    cut_off(path, 0.6)
    with pytest.raises(TruncatedError, match=r"truncated: .*DATA\.ALLOW_TRUNCATED True"):
        VideoFile(str(path))
    with VideoFile(str(path), allow_truncated=True) as video:
        assert NUM_FRAMES / 4 < video.num_frames < NUM_FRAMES * 3 / 4
        assert video.truncation
        for number in (0, 7, video.num_frames - 4):
            assert np.array_equal(video.read([number])[0], whole[number])


@pytest.mark.parametrize(
    "suffix",
    [".wmv", ".mxf", ".ivf", ".ogv", ".gif", ".y4m", ".nut", ".mjpeg", ".mpg", ".ts", ".mkv"],
)
@pytest.mark.parametrize("share", [0.4, 0.5])
def test_each_frame_that_a_cut_leaves_can_be_read(
    suffix: str, share: float, tmp_path: Path
) -> None:
    path = write(tmp_path / f"v{suffix}")
    VideoFile(str(path)).close()  # which is whole
    whole = decode_plainly(path)[0]
    cut_off(path, share)
    with pytest.raises(TruncatedError, match=r"truncated: .*DATA\.ALLOW_TRUNCATED True"):
        VideoFile(str(path))
    with VideoFile(str(path), allow_truncated=True) as video:
        assert video.truncation
        assert 3 <= video.num_frames < NUM_FRAMES
        for number in range(
            video.num_frames - 6
        ):  # of a transport stream, some before the end may be missing
            assert np.array_equal(video.read([number])[0], whole[number])
        assert len(video.read(range(video.num_frames))) == video.num_frames


def test_an_ivf_file_of_unknown_length_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "v.ivf")
    content = bytearray(path.read_bytes())
    content[24:28] = b"\xff\xff\xff\xff"  # as it stays where the file is written to a pipe
    path.write_bytes(content)
    with VideoFile(str(path)) as video:
        assert video.num_frames == NUM_FRAMES


@pytest.mark.parametrize("num_packets", [Fraction(299, 2), 149])
def test_a_transport_stream_cut_within_a_picture_is_refused(
    num_packets: Fraction, tmp_path: Path
) -> None:
    content = write(tmp_path / "v.ts").read_bytes()
    path = tmp_path / "cut.ts"
    # Pictures of noise fill several packets of 188 bytes: the cut is within a packet, or between two of a picture.
    path.write_bytes(content[: int(num_packets * 188)])
    with pytest.raises(TruncatedError, match="is cut off"):
        VideoFile(str(path))
    with VideoFile(str(path), allow_truncated=True) as video:
        assert video.read([0]).shape == (1, 48, 64, 3)


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi"])
def test_a_video_that_lacks_a_few_frames_counts_as_whole(suffix: str, tmp_path: Path) -> None:
    path = cut_off(write(tmp_path / f"v{suffix}"), 0.93)
    with VideoFile(str(path)) as video:
        assert not video.truncation
        assert 48 <= video.num_frames <= NUM_FRAMES


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_cut_by_copying_packets_is_whole(suffix: str, tmp_path: Path) -> None:
    # Negative times make the muxer of mp4 write an edit list that hides the first frames.
    shift = -0.2 if suffix == ".mp4" else 3.0
    path = copy_packets(
        write(tmp_path / f"v{suffix}"), tmp_path / f"cut{suffix}", first=12, shift=shift
    )
    with VideoFile(str(path)) as video:
        assert not video.truncation
        assert video.num_frames >= NUM_FRAMES - 18


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_phone_clip_of_variable_rate_is_whole(suffix: str, tmp_path: Path) -> None:
    # 30 frames in a second, then few in dim light, and a last one that is shown for a second.
    steps = [33] * 20 + [120] * 20 + [33] * 18 + [1000]
    path = write(tmp_path / f"v{suffix}", times=np.cumsum([0, *steps]).tolist())
    with VideoFile(str(path)) as video:
        assert not video.truncation
        assert video.num_frames == NUM_FRAMES
        assert video.times[-1] == pytest.approx(sum(steps) / 1000, abs=0.002)


def test_sound_that_goes_on_after_the_video_is_no_promise(tmp_path: Path) -> None:
    path = tmp_path / "v.flv"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        sound: Any = container.add_stream("aac", rate=8000)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        for image in draw(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        for number in range(40):  # 5 seconds
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 8000, number * 1024
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with VideoFile(str(path)) as opened:
        assert opened.num_frames == 25


# ---- What is no video ------------------------------------------------------------------------------------------------


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("aac", rate=8000)
        picture: Any = container.add_stream("mjpeg", rate=1)
        picture.width = picture.height = 64
        picture.pix_fmt, picture.disposition = "yuvj420p", Disposition.attached_pic
        container.mux(
            picture.encode(
                av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            )
        )
        container.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with pytest.raises(DecodeError, match=r"song\.mp4: no video stream, only a cover picture"):
        VideoFile(str(path))


def test_a_size_above_the_limit_is_refused_before_decoding(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4")
    with VideoFile(str(path), max_pixels=48 * 64) as video:
        assert video.num_frames == NUM_FRAMES
    content = bytearray(path.read_bytes())
    entry = (
        content.index(b"avc1", content.index(b"stsd")) + 4 + 24
    )  # width and height of the sample entry
    assert content[entry : entry + 4] == bytes([0, 64, 0, 48])
    with pytest.raises(
        DecodeError, match=r"frames of 64 x 48 pixels .* DATA\.MAX_FRAME_PIXELS 3071 allows"
    ):
        VideoFile(str(path), max_pixels=48 * 64 - 1)


def test_frames_that_grow_above_the_limit_are_refused(tmp_path: Path) -> None:
    small, large = write(tmp_path / "small.ts"), tmp_path / "large.ts"
    with av.open(str(large), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 480, 640, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((480, 640, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = 250 + number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path = tmp_path / "v.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with VideoFile(str(path), max_pixels=640 * 480) as video:
        assert video.num_frames == NUM_FRAMES + 5
    with VideoFile(str(path), max_pixels=640 * 480 - 1) as video:
        assert np.array_equal(video.read([3])[0], decode_plainly(small)[0][3])
        with pytest.raises(DecodeError):
            video.read(range(video.num_frames))


# ---- The log ---------------------------------------------------------------------------------------------------------


def open_many(folder: str, num_opens: int, seed: int) -> int:
    """Open and read files, most of them damaged; return how many were refused."""
    paths = sorted(Path(folder).iterdir())
    rng = np.random.default_rng(seed)
    num_refused = 0
    for _ in range(num_opens):
        try:
            with VideoFile(str(paths[rng.integers(len(paths))])) as video:
                video.read([int(rng.integers(video.num_frames))])
        except DecodeError:
            num_refused += 1
    return num_refused


@pytest.mark.parametrize("num_opens", [40, pytest.param(10_000, marks=pytest.mark.soak)])
def test_eight_workers_that_read_damaged_files_do_not_hang(num_opens: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in CODECS:
        content = write(tmp_path / f"v{suffix}", draw(4)).read_bytes()
        for number in range(6):
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), 4):
                damaged[place] = rng.integers(0, 256)
            (tmp_path / f"{number}{suffix}").write_bytes(damaged)
    open_many(
        str(tmp_path), 20, seed=0
    )  # workers are forked from a process that has listened before
    with multiprocessing.get_context("fork").Pool(8) as pool:
        results = pool.starmap_async(
            open_many, [(str(tmp_path), num_opens, seed) for seed in range(8)]
        )
        assert min(results.get(timeout=60 + num_opens)) > num_opens // 20


@pytest.mark.parametrize("suffix", ["mkv", "webm", "ts", "flv", "mp4", "avi"])
@pytest.mark.parametrize("damage", ["cut off", "zeros"])
def test_a_file_that_changes_while_it_is_open_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, damage: str
) -> None:
    monkeypatch.setattr(
        decode, "MAX_KEPT_BYTES", 0
    )  # as for a file of more than 256 MB, which is read again
    path = tmp_path / f"v.{suffix}"
    codec = {"webm": "libvpx", "flv": "flv", "avi": "mpeg4"}.get(suffix, "libx264")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for _ in range(60):
            noise = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    with VideoFile(str(path)) as video:
        last = video.num_frames - 1
        whole = {number: video.read([number])[0] for number in (0, 5, 30, last)}

    with VideoFile(str(path)) as video, path.open("r+b") as file:
        length = path.stat().st_size
        if damage == "cut off":
            file.truncate(length // 2)
        else:
            file.seek(length // 2)
            file.write(bytes(length // 3))
            file.flush()
        for number, frame in whole.items():
            with contextlib.suppress(DecodeError):
                shown = video.read([number])[0]
                # What a decoder makes of zeros without a word cannot be told from a picture.
                assert damage == "zeros" or np.array_equal(shown, frame)
