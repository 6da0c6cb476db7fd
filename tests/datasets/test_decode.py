from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from slowfast.datasets.decode import DecodeError, FrameFolder, VideoFile

PaintedNumber = Callable[[np.ndarray], list[int]]


@pytest.fixture(scope="module")
def video_path(tmp_path_factory: pytest.TempPathFactory, write_painted: Callable[..., Path]) -> Path:
    """120 frames with B-frames and a keyframe every 20."""
    return write_painted(tmp_path_factory.mktemp("video") / "b frames.mp4", 120, g="20", bf="3")


def test_frames_are_read_by_number_in_any_order(video_path: Path, painted_number: PaintedNumber) -> None:
    with VideoFile(str(video_path)) as video:
        assert video.num_frames == 120
        assert video.fps == 25
        assert painted_number(video.read(range(120))) == list(range(120))
        for numbers in ([0], [119], [3, 3, 2], [119, 0, 60], [19, 20, 21], [5, 45, 46, 110]):
            assert painted_number(video.read(numbers)) == numbers


@pytest.mark.parametrize(
    "options",
    [{"g": "1"}, {"g": "250"}, {"g": "5", "bf": "4", "b_strategy": "0"}, {"g": "12", "flags": "-cgop"}],
    ids=["only keyframes", "one keyframe", "short groups", "open groups"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_seeking_gives_the_frames_of_a_sequential_pass(
    tmp_path: Path,
    write_painted: Callable[..., Path],
    painted_number: PaintedNumber,
    options: dict[str, str],
    suffix: str,
) -> None:
    path = write_painted(tmp_path / f"video{suffix}", 60, **options)
    rng = np.random.default_rng(0)
    with VideoFile(str(path)) as video:
        for _ in range(40):
            numbers = sorted(rng.integers(0, 60, rng.integers(1, 6)).tolist())
            assert painted_number(video.read(numbers)) == numbers


def test_the_decoder_runs_in_one_thread(video_path: Path) -> None:
    with VideoFile(str(video_path)) as video:
        video.read([0])
        assert video._stream.codec_context.thread_count == 1


def test_the_container_is_closed_after_use_and_after_an_error(video_path: Path) -> None:
    def open_files() -> int:
        return sum(1 for link in Path("/proc/self/fd").iterdir() if link.exists())

    before = open_files()
    with VideoFile(str(video_path)) as video:
        video.read([0])
    with pytest.raises(DecodeError), VideoFile(str(video_path)) as video:
        video.read([500])
    assert open_files() == before


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"none\.mp4: no such file"):
        VideoFile(str(tmp_path / "none.mp4"))


def test_a_file_that_is_no_video_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("not a video")
    with pytest.raises(DecodeError, match=r"text\.mp4: invalid data found"):
        VideoFile(str(path))


def test_a_file_with_sound_alone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DecodeError, match=r"sound\.mp4: no video stream"):
        VideoFile(str(path))


def test_a_damaged_video_raises_instead_of_giving_another_frame(video_path: Path, tmp_path: Path) -> None:
    content = bytearray(video_path.read_bytes())
    with av.open(str(video_path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in packets[40:80]:
        content[position : position + size] = bytes(size)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    with VideoFile(str(path)) as video, pytest.raises(DecodeError, match=r"damaged\.mp4"):
        video.read(range(120))


def test_frame_files_count_from_one(tmp_path: Path) -> None:
    for number in range(1, 6):
        Image.new("RGB", (16, 8), (number * 40, 0, 0)).save(tmp_path / f"img_{number:05d}.jpg")
    with FrameFolder(str(tmp_path), template="img_{:05d}.jpg", num_frames=5) as folder:
        frames = folder.read([0, 4, 4])
    assert frames.shape == (3, 8, 16, 3)
    assert np.abs(frames[:, 0, 0, 0].astype(int) - [40, 200, 200]).max() <= 2
    assert frames[..., 1:].max() <= 4


def test_a_missing_frame_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"00003\.jpg: no such file or directory \(frame 3 of 5\)"):
        FrameFolder(str(tmp_path), template="{:05d}.jpg", num_frames=5).read([2])
