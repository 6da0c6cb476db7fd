"""Damaged and joined files: frames are those of a clean plain decode, or are refused."""

import contextlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from slowfast.datasets.decode import DecodeError, TruncatedError, VideoFile
from tests.datasets.decoding.noise_videos import (
    NUM_FRAMES,
    copy_packets,
    decode_plainly,
    draw,
    list_packets,
    write,
)


def read_or_refuse(video: VideoFile, number: int) -> NDArray[Any] | None:
    """Return a frame, None if it is refused."""
    try:
        return video.read([number])[0]
    except DecodeError:
        return None


# ---- Damage --------------------------------------------------------------------------------------


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

    for index, (position, size, _) in list(enumerate(list_packets(path)))[3::7]:
        damaged = bytearray(content)
        start = position + size // 3
        damaged[start : start + 12] = rng.bytes(12)
        path.write_bytes(damaged)

        plain, is_reported = decode_plainly(path)
        num_reported += is_reported
        expected = whole if is_reported else plain
        try:
            video = VideoFile(str(path))
        except DecodeError:
            num_refused += 1
            continue
        with video:
            for number in (2, index, index + 1, 5, index - 1, 40, video.num_frames - 1):
                frame = read_or_refuse(video, number)
                num_refused += frame is None
                assert frame is None or np.array_equal(frame, expected[number])

    assert num_refused >= num_reported > 0


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_data_that_a_demuxer_skips_is_reported(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"v{suffix}")
    whole = decode_plainly(path)[0]
    position, size, _ = list_packets(path)[30]
    content = bytearray(path.read_bytes())
    content[position - 2 : position + size] = bytes(size + 2)  # and the length of the element
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
    # Damage from byte 14 on makes FFmpeg report it. From byte 20 on, FFmpeg shows what its memory
    # held before. From byte 30 on, it still decodes the picture.
    images = np.full((24, 48, 64, 3), 40, np.uint8)
    for number, image in enumerate(images):
        image[8:24, number : number + 16] = 200
        image[30, number * 2 :] = 90
    path = write(tmp_path / "v.webm", images)
    whole, content = decode_plainly(path)[0], bytearray(path.read_bytes())

    position, size, is_key = list_packets(path)[12]
    assert is_key
    content[position + 4 + start : position + size] = b"\xff" * (size - 4 - start)
    path.write_bytes(content)
    expected = [*whole[:12], *decode_plainly(path)[0][12:]]

    refused = set()
    with VideoFile(str(path)) as video:
        for number in [*range(24), *reversed(range(24))]:
            frame = read_or_refuse(video, number)
            if frame is None:
                refused.add(number)
            else:
                assert np.array_equal(frame, expected[number])
    assert refused == (set(range(12, 24)) if is_refused else set())


@pytest.mark.parametrize(("fill", "refused"), [(b"\xff", {17, 18, 19}), (b"\0", set())])
def test_vp8_between_keyframes_is_complete_or_refused(
    fill: bytes, refused: set[int], tmp_path: Path
) -> None:
    # FFmpeg reports neither. But 0xff uses up the data before the last macroblock, zeros do not.
    path = write(tmp_path / "v.webm")
    content = bytearray(path.read_bytes())
    position, size, is_key = list_packets(path)[17]
    assert not is_key
    content[position + 24 : position + size] = fill * (size - 24)
    path.write_bytes(content)
    plain, is_reported = decode_plainly(path)
    assert not is_reported

    reason = r"v\.webm: the data of the picture ends too early"
    with VideoFile(str(path)) as video:
        for number in [*range(15, 30), *reversed(range(15, 30))]:
            if number in refused:
                with pytest.raises(DecodeError, match=reason):
                    video.read([number])
            else:
                assert np.array_equal(video.read([number])[0], plain[number])


def test_an_hevc_slice_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", draw(24), codec="libx265")
    content = bytearray(path.read_bytes())
    position, _, is_key = list_packets(path)[12]
    assert not is_key
    content[position + 11 : position + 17] = b"\xff" * 6
    path.write_bytes(content)
    plain, is_reported = decode_plainly(path)
    assert not is_reported

    refused = set()
    with VideoFile(str(path)) as video:
        for number in [*range(24), *reversed(range(24))]:
            frame = read_or_refuse(video, number)
            if frame is None:
                refused.add(number)
            else:
                assert np.array_equal(frame, plain[number])
    assert 12 in refused
    assert len(refused) < 12


def test_pictures_whose_timestamps_are_swapped_are_refused(tmp_path: Path) -> None:
    path, swapped = write(tmp_path / "v.mp4"), tmp_path / "swapped.mp4"
    with av.open(str(path)) as container, av.open(str(swapped), "w") as output:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        copy = output.add_stream_from_template(container.streams.video[0])
        times = [packet.pts or 0 for packet in packets]
        index = next(index for index in range(20, 40) if times[index] < times[index - 1])
        packets[index - 1].pts, packets[index].pts = times[index], times[index - 1]
        for packet in packets:
            packet.stream = copy
            output.mux(packet)

    plain = decode_plainly(swapped)[0]
    with VideoFile(str(swapped)) as video:
        for number in range(NUM_FRAMES):
            frame = read_or_refuse(video, number)
            assert frame is None or np.array_equal(frame, plain[number])
        with pytest.raises(DecodeError):
            video.read(range(NUM_FRAMES))


@pytest.mark.parametrize("segment", [b"\xff\xdb", b"\xff\xc4"])
def test_a_jpeg_without_its_tables_takes_those_of_the_one_before(
    segment: bytes, tmp_path: Path
) -> None:
    path = write(tmp_path / "v.mov")
    content = bytearray(path.read_bytes())
    position, size, _ = list_packets(path)[20]
    marker = content.index(segment, position, position + size)
    content[marker + 1] = 0xE5  # application data, which decoders skip
    path.write_bytes(content)

    plain, is_reported = decode_plainly(path)
    with VideoFile(str(path)) as video:
        frame = read_or_refuse(video, 20)
        if frame is None:
            assert is_reported
        else:
            assert np.array_equal(frame, plain[20])
        assert np.array_equal(video.read([21])[0], plain[21])


def test_a_jpeg_whose_data_ends_too_early_is_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mov")
    content = bytearray(path.read_bytes())
    position, size, _ = list_packets(path)[20]
    end = position + size - size // 4
    content[end : end + 2] = b"\xff\xd9"  # the end-of-image marker
    path.write_bytes(content)

    reason = r"v\.mov: .*\(at frame 20\)"
    with VideoFile(str(path)) as video, pytest.raises(DecodeError, match=reason):
        video.read([20])


@pytest.mark.parametrize(("suffix", "codec"), [(".wmv", ""), (".avi", "wmv2"), (".avi", "msmpeg4")])
def test_frames_before_the_first_keyframe_keep_no_other_picture(
    suffix: str, codec: str, tmp_path: Path
) -> None:
    whole = write(tmp_path / f"whole{suffix}", codec=codec)
    path = copy_packets(whole, tmp_path / f"v{suffix}", first=5)
    plain = decode_plainly(path)[0]

    num_refused = 0
    with VideoFile(str(path)) as video:
        # The first frames are predicted from whatever was decoded before.
        for number in (40, 0, 3, 20, 1):
            frame = read_or_refuse(video, number)
            num_refused += frame is None
            assert frame is None or np.array_equal(frame, plain[number])
    assert num_refused <= 3


def test_mpeg4_damage_is_reported_wherever_reading_starts(tmp_path: Path) -> None:
    path = write(tmp_path / "v.avi")
    content = bytearray(path.read_bytes())
    position, size, is_key = list_packets(path)[24]
    assert is_key
    content[position + size - 1] = 0  # the stuffing at the end of the picture
    path.write_bytes(content)
    assert decode_plainly(path)[1]

    with VideoFile(str(path)) as video, pytest.raises(DecodeError, match=r"\(at frame 24\)"):
        video.read([24])


def stamp(ticks: int) -> bytes:
    """Return a pts as a transport stream stores it in a header that also has a dts."""
    middle, low = (ticks >> 15) & 0x7FFF, ticks & 0x7FFF
    return bytes(
        [0x31, (ticks >> 22) & 0xFF, (middle & 0x7F) << 1 | 1, low >> 7, (low & 0x7F) << 1 | 1]
    )


def test_a_time_before_those_of_the_last_group_is_ignored(tmp_path: Path) -> None:
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


# ---- Joined files --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize(
    ("first", "shift"), [(0, 0.5), (0, 1.01), (0, 2.3), (0, 9.0), (5, 0.5), (5, 9.0)]
)
def test_joined_recordings_are_read_in_file_order(
    suffix: str, first: int, shift: float, tmp_path: Path
) -> None:
    # The first recording takes 2.4 s. The second one starts within it, near its end, or later.
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
            frame = read_or_refuse(video, number)
            if frame is None:
                assert is_reported
            else:
                num_read += 1
                assert np.array_equal(frame, plain[number])
    assert num_read >= (15 if is_reported else 30)


# ---- Files that change ---------------------------------------------------------------------------


def write_large_noise(path: Path) -> None:
    codecs = {".webm": "libvpx", ".flv": "flv", ".avi": "mpeg4"}
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        codec = codecs.get(path.suffix, "libx264")
        stream: Any = container.add_stream(codec, rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for _ in range(60):
            noise = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("suffix", ["mkv", "webm", "ts", "flv", "mp4", "avi"])
@pytest.mark.parametrize("damage", ["cut off", "zeros"])
def test_a_file_that_changes_while_it_is_open_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, damage: str
) -> None:
    # Read the file again, as if it had more than 256 MB.
    monkeypatch.setattr("slowfast.datasets.decoding.packets.MAX_KEPT_BYTES", 0)
    path = tmp_path / f"v.{suffix}"
    write_large_noise(path)
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
                assert np.array_equal(shown, frame)
