"""Video dataset: batches of clips, from annotations and from the config."""

import re
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import (
    DATASETS,
    build_annotations,
    build_class_names,
    build_loader,
    find_problems,
)
from slowfast.datasets.clip_reader import ClipReader, OpenVideo
from slowfast.datasets.dataset import VideoDataset
from slowfast.datasets.decode import VideoFile
from slowfast.datasets.normalization import Float32Clips
from slowfast.datasets.records import Request, Video, View
from slowfast.datasets.sampling import DenseClips, constant_rate
from slowfast.datasets.transforms import EvalTransform
from slowfast.preparation.encode import write_video
from slowfast.preparation.motion import make_motion

TinyCfg = Callable[..., CfgNode]
AUGMENTED: dict[str, Any] = {
    "AUG__ENABLE": True,
    "AUG__NUM_SAMPLE": 2,
    "DATA__RANDOM_FLIP": True,
    "TRAIN__AMP": "off",
}


def open_file(video: Video) -> VideoFile:
    return VideoFile(video.path)


def make_dataset(
    path: Path,
    *,
    clips: DenseClips,
    label: int = 0,
    open_video: OpenVideo = open_file,
    target_fps: float = 0.0,
) -> VideoDataset:
    """Make a dataset of one video whose clips have 32 x 32 pixels of 0 to 255."""
    clip_format = Float32Clips(mean=[0.0] * 3, std=[1 / 255] * 3)
    transform = EvalTransform(short_side=32, crop_size=32, clip_format=clip_format)
    reader = ClipReader(open_video, clips=clips, transform=transform, target_fps=target_fps)
    return VideoDataset(Annotations([str(path)], [label]), reader)


def first_frames(cfg: CfgNode, split: str) -> torch.Tensor:
    return next(iter(build_loader(cfg, split))).frames


def test_a_training_sample_is_the_same_for_0_and_2_workers(tiny_cfg: TinyCfg) -> None:
    batches = []
    for workers in (0, 2):
        loader = build_loader(tiny_cfg(DATA_LOADER__NUM_WORKERS=workers, **AUGMENTED), "train")
        loader.set_epoch(3)
        batches.append(list(loader))

    assert len(batches[0]) == len(batches[1]) == 4
    for alone, shared in zip(*batches, strict=True):
        for first, second in zip(alone[:4], shared[:4], strict=True):
            assert torch.equal(first, second)


def test_augmented_copies_show_the_same_frames_differently(tiny_cfg: TinyCfg) -> None:
    batch = next(iter(build_loader(tiny_cfg(**AUGMENTED), "train")))
    assert batch.frames.shape == (16, 3, 4, 32, 32)
    assert batch.video_indices[0::2].equal(batch.video_indices[1::2])
    assert batch.view_indices.tolist() == [0, 1] * 8
    assert not torch.equal(batch.frames[0], batch.frames[1])


def test_a_test_batch_holds_all_views_of_its_videos(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(TEST__NUM_SPATIAL_CROPS=3, TEST__BATCH_SIZE=12)
    batches = list(build_loader(cfg, "test"))
    pairs = [[first, first + 1] for first in range(0, 24, 2)]
    assert [sorted(set(batch.video_indices.tolist())) for batch in batches] == pairs
    assert batches[0].view_indices.tolist() == [*range(6), *range(6)]

    labels = build_annotations(cfg, "test").labels
    assert batches[0].labels.tolist() == labels[[0] * 6 + [1] * 6].tolist()


def test_all_views_of_a_video_take_one_open_and_one_read(
    tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    reads: list[list[int]] = []

    class CountingFile(VideoFile):
        def read_in_chunks(self, numbers: Any, *, max_bytes: int) -> Iterator[np.ndarray]:
            reads.append(list(numbers))
            return super().read_in_chunks(numbers, max_bytes=max_bytes)

    clips = DenseClips(num_frames=4, sampling_rate=8, num_clips=3, use_offset=True)
    dataset = make_dataset(
        write_painted(tmp_path / "video.mp4", 100),
        clips=clips,
        label=2,
        open_video=lambda video: CountingFile(video.path),
    )
    views = tuple(View(index, clip=index // 3, crop=index % 3) for index in range(9))
    batch = dataset[Request(0, views, seed=None)]

    assert len(reads) == 1
    assert batch.labels.tolist() == [2] * 9
    assert batch.video_indices.tolist() == [0] * 9
    assert batch.view_indices.tolist() == list(range(9))
    # The left crop shows the two lowest bits of each frame's number, the right the two highest.
    for view, frames in zip(views, batch.frames, strict=True):
        numbers = clips.numbered(100, view.clip)
        first_bit = {0: 0, 1: 3, 2: 6}[view.crop]
        shown = (frames[0, :, 16, [8, 24]] > 127).long() @ torch.tensor([1, 2])
        assert shown.tolist() == ((numbers >> first_bit) % 4).tolist()


def test_memory_does_not_grow_with_the_clips_of_a_video(tmp_path: Path) -> None:
    # 40 frames of 2.8 MB each, all of which the 10 clips show.
    frames = np.broadcast_to(np.uint8(90), (40, 720, 1280, 3))
    write_video(tmp_path / "large.mp4", frames, codec_options={"preset": "ultrafast"})
    clips = DenseClips(num_frames=16, sampling_rate=1, num_clips=10, use_offset=True)
    dataset = make_dataset(tmp_path / "large.mp4", clips=clips)
    views = tuple(View(clip, clip=clip, crop=1) for clip in range(10))

    tracemalloc.start()
    batch = dataset[Request(0, views, seed=None)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(batch.frames) == 10
    assert peak < 60e6


@pytest.mark.parametrize("split", ["train", "test"])
def test_views_do_not_depend_on_the_chunks_of_frames(
    split: str, tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clip of 4 frames spans 40, but a video has 32: a clip starts over, or is in one chunk of 3.
    settings: dict[str, Any] = {
        "DATA__SAMPLING_RATE": 10,
        "DATA__SHORT_CLIP": "loop",
        "TEST__NUM_SPATIAL_CROPS": 3,
    }
    loader = build_loader(tiny_cfg(**AUGMENTED, **settings), split)
    whole = next(iter(loader)).frames
    transform = loader.dataset.reader.transform
    for max_frames in (1, 3):
        monkeypatch.setattr(transform, "chunk_bytes", max_frames * 3 * 64 * 80)
        assert torch.equal(next(iter(loader)).frames, whole)


def test_videos_are_rgb_and_frame_folders_bgr_unless_reversed(
    tmp_path: Path, tiny_cfg: TinyCfg
) -> None:
    folder = tmp_path / "frames"
    make_motion(folder, seed=5, videos_per_class={"train": 4, "val": 2, "test": 3}, as_frames=True)
    as_frames = {
        "TEST__DATASET": "ssv1",
        "DATA__PATH_TO_DATA_DIR": folder,
        "DATA__PATH_PREFIX": folder,
        "DATA__LABEL_PATH_TEMPLATE": "{}.txt",
        "DATA__NUM_FRAMES": 8,
    }
    plain = first_frames(tiny_cfg(**as_frames), "test")
    swapped = first_frames(tiny_cfg(**as_frames, DATA__REVERSE_INPUT_CHANNEL=True), "test")
    assert torch.equal(plain, swapped.flip(1))

    # The same seed gives the same scenes as videos, which are RGB and differ only by compression.
    cfg = tiny_cfg(DATA__NUM_FRAMES=8, DATA__LABEL_PATH_TEMPLATE="val.csv")
    videos = first_frames(cfg, "test")
    assert (swapped.mean(dim=(2, 3, 4)) - videos.mean(dim=(2, 3, 4))).abs().mean() < 0.1
    assert (plain.mean(dim=(2, 3, 4)) - videos.mean(dim=(2, 3, 4))).abs().mean() > 0.2


@pytest.mark.parametrize("name", ["ssv1", "ssv2", "sth"])
def test_frame_folders_take_one_frame_per_segment(
    tmp_path: Path, tiny_cfg: TinyCfg, name: str
) -> None:
    folder = tmp_path / "frames"
    make_motion(folder, seed=5, videos_per_class={"train": 1, "val": 1, "test": 1}, as_frames=True)
    version = "2" if name == "ssv2" else "1"
    (folder / "validation.txt").rename(folder / f"somesomev{version}_rgb_validation_split.txt")
    cfg = tiny_cfg(
        TEST__DATASET=name,
        DATA__PATH_TO_DATA_DIR=folder,
        DATA__PATH_PREFIX=folder,
        TEST__NUM_SPATIAL_CROPS=3,
    )
    dataset = build_loader(cfg, "test").dataset
    assert isinstance(dataset, VideoDataset)

    # 32 frames make 4 segments of 7.75. The clips are 2 and 5 frames (1/3 and 2/3) into each.
    clips = dataset.reader.clips
    assert clips.numbered(32, 0).tolist() == [2, 10, 18, 25]
    assert clips.numbered(32, 1).tolist() == [5, 13, 21, 28]
    assert len(dataset[Request(0, (View(0, 0, 1), View(1, 1, 1)), seed=None)].frames) == 2


def test_validation_takes_one_centered_view(tiny_cfg: TinyCfg) -> None:
    loader = build_loader(tiny_cfg(DATA__USE_OFFSET_SAMPLING=False), "val")
    assert loader.batch_sampler.views == (View(0, clip=0, crop=1),)
    assert isinstance(loader.dataset, VideoDataset)
    assert loader.dataset.reader.clips.numbered(32, 0)[0] == (32 - 4 * 3) // 2


def test_a_target_frame_rate_resamples_before_clips_are_taken(
    tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    dataset = make_dataset(
        write_painted(tmp_path / "video.mp4", 100, fps=50),
        clips=DenseClips(num_frames=4, sampling_rate=5, num_clips=1, use_offset=False),
        target_fps=25,
    )
    (frames,) = dataset[Request(0, (View(0, 0, 0),), seed=None)].frames

    # At 25 frames/s the clip takes 0, 6, 12, 19 of 50 frames. These are their two lowest bits:
    shown = (frames[0, :, 16, [8, 24]] > 127).long() @ torch.tensor([1, 2])
    ticks = constant_rate(np.arange(100) / 50, np.full(100, 0.02), fps=25)
    assert ticks.num_ticks == 52  # FFmpeg gives way by a tick before it drops a frame
    assert shown.tolist() == (ticks.frames_at(np.array([0, 6, 12, 19])) % 4).tolist()


def write_video_with_late_frame(path: Path) -> None:
    """Write 20 frames at 25 frames/s, the last of which is 100 hours late."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number in range(20):
            image = np.full((32, 64, 3), number, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if number < 19 else 25 * 100 * 3600
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_video_with_a_wrong_time_stamp_is_not_resampled(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    write_video_with_late_frame(path)
    clips = DenseClips(num_frames=4, sampling_rate=5, num_clips=1, use_offset=False)
    request = Request(0, (View(0, 0, 0),), seed=None)

    resampled = make_dataset(path, clips=clips, target_fps=30)
    reason = rf"{path}: frame 18 of 20 is shown for 35999\d s, more than 3600 s: a time stamp must"
    assert re.match(reason, resampled[request].unreadable[0].reason)
    assert len(make_dataset(path, clips=clips)[request].frames) == 1


def test_problems_of_the_data_are_found_before_any_work(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    assert find_problems(tiny_cfg()) == []
    assert find_problems(tiny_cfg(TRAIN__DATASET="kinetic")) == [
        f"TRAIN.DATASET is 'kinetic'. Choose from {', '.join(DATASETS)}"
    ]

    (problem,) = find_problems(tiny_cfg(AUG__ENABLE=True, AUG__AA_TYPE="x"))
    assert "AUG.AA_TYPE: 'x' is not" in problem

    missing = find_problems(tiny_cfg(DATA__PATH_TO_DATA_DIR=tmp_path))
    assert [problem.split(":")[0] for problem in missing] == [
        f"{tmp_path}/{split}.csv" for split in ("train", "val", "test")
    ]

    (tmp_path / "names.txt").write_text("one\ntwo\n")
    problems = find_problems(tiny_cfg(DATA__CLASS_NAMES=tmp_path / "names.txt"))
    assert "2 names, but" in problems[0]
    problems = find_problems(tiny_cfg(MODEL__NUM_CLASSES=7, DATA__CLASS_NAMES=""))
    assert "line 8 has the label 7" in problems[0]


def test_class_names_are_one_for_each_class(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    assert build_class_names(tiny_cfg())[:2] == ["left", "right"]
    assert build_class_names(tiny_cfg(DATA__CLASS_NAMES=""))[:2] == ["0", "1"]
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match=r"names\.txt has 2 names, but MODEL\.NUM_CLASSES is 8"):
        build_class_names(tiny_cfg(DATA__CLASS_NAMES=tmp_path / "names.txt"))
