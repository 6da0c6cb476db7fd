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
from slowfast.datasets.dataset import VideoDataset
from slowfast.datasets.decode import VideoFile
from slowfast.datasets.records import Request, Video, View
from slowfast.datasets.sampling import DenseClips, constant_rate
from slowfast.datasets.transforms import EvalTransform
from slowfast.preparation.motion import make_motion, write_video

TinyCfg = Callable[..., CfgNode]
AUGMENTED: dict[str, Any] = {
    "AUG__ENABLE": True,
    "AUG__NUM_SAMPLE": 2,
    "DATA__RANDOM_FLIP": True,
    "TRAIN__AMP": "off",
}


def test_a_training_sample_is_the_same_for_0_and_2_workers(tiny_cfg: TinyCfg) -> None:
    batches = []
    for workers in (0, 2):
        loader = build_loader(tiny_cfg(DATA_LOADER__NUM_WORKERS=workers, **AUGMENTED), "train")
        loader.set_epoch(3)
        batches.append(list(loader))
    assert len(batches[0]) == len(batches[1]) == 4
    for alone, shared in zip(*batches, strict=True):
        assert all(
            torch.equal(first, second) for first, second in zip(alone[:4], shared[:4], strict=True)
        )


def test_augmented_copies_show_the_same_frames_differently(tiny_cfg: TinyCfg) -> None:
    batch = next(iter(build_loader(tiny_cfg(**AUGMENTED), "train")))
    assert batch.frames.shape == (16, 3, 4, 32, 32)
    assert batch.video[0::2].equal(batch.video[1::2])
    assert batch.view.tolist() == [0, 1] * 8
    assert not torch.equal(batch.frames[0], batch.frames[1])


def test_a_test_batch_holds_all_views_of_its_videos(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(TEST__NUM_SPATIAL_CROPS=3, TEST__BATCH_SIZE=12)
    batches = list(build_loader(cfg, "test"))
    assert [sorted(set(batch.video.tolist())) for batch in batches] == [
        [n, n + 1] for n in range(0, 24, 2)
    ]
    assert batches[0].view.tolist() == [*range(6), *range(6)]
    assert (
        batches[0].label.tolist()
        == build_annotations(cfg, "test").labels[[0] * 6 + [1] * 6].tolist()
    )


def test_all_views_of_a_video_take_one_open_and_one_read(
    tmp_path: Path,
    write_painted: Callable[..., Path],
    painted_number: Callable[[np.ndarray], list[int]],
) -> None:
    path = write_painted(tmp_path / "video.mp4", 100)
    reads: list[list[int]] = []

    class Counted(VideoFile):
        def read_in_chunks(self, numbers: Any, *, max_bytes: int) -> Iterator[np.ndarray]:
            reads.append(list(numbers))
            return super().read_in_chunks(numbers, max_bytes=max_bytes)

    clips = DenseClips(num_frames=4, sampling_rate=8, num_clips=3, use_offset=True)
    dataset = VideoDataset(
        Annotations([str(path)], [2]),
        open_video=lambda video: Counted(video.path),
        clips=clips,
        transform=EvalTransform(short_side=32, crop_size=32, mean=[0.0] * 3, std=[1 / 255] * 3),
    )
    views = tuple(View(index, clip=index // 3, crop=index % 3) for index in range(9))
    batch = dataset[Request(0, views, seed=None)]
    assert len(reads) == 1
    assert (batch.label.tolist(), batch.video.tolist(), batch.view.tolist()) == (
        [2] * 9,
        [0] * 9,
        list(range(9)),
    )
    # The left crop shows the two lowest bits of each frame's number, the right crop the two highest.
    for view, frames in zip(views, batch.frames, strict=True):
        numbers = clips.numbered(100, view.clip)
        first_bit = {0: 0, 1: 3, 2: 6}[view.crop]
        shown = (frames[0, :, 16, [8, 24]] > 127).long() @ torch.tensor([1, 2])
        assert shown.tolist() == ((numbers >> first_bit) % 4).tolist()


def test_memory_does_not_grow_with_the_clips_of_a_video(tmp_path: Path) -> None:
    # 40 frames of 2.8 MB each, all of which the 10 clips show.
    frames = np.broadcast_to(np.uint8(90), (40, 720, 1280, 3))
    write_video(tmp_path / "large.mp4", frames, codec_options={"preset": "ultrafast"})
    dataset = VideoDataset(
        Annotations([str(tmp_path / "large.mp4")], [0]),
        open_video=lambda video: VideoFile(video.path),
        clips=DenseClips(num_frames=16, sampling_rate=1, num_clips=10, use_offset=True),
        transform=EvalTransform(short_side=32, crop_size=32, mean=[0.0] * 3, std=[1 / 255] * 3),
    )
    views = tuple(View(clip, clip=clip, crop=1) for clip in range(10))
    tracemalloc.start()
    batch = dataset[Request(0, views, seed=None)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(batch.frames) == 10
    assert peak < 60e6


@pytest.mark.parametrize("split", ["train", "test"])
def test_views_are_the_same_in_whatever_chunks_frames_come(
    split: str, tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 32 frames, of which a clip of 4 frames spans 40: it starts over, or lies within one chunk of 3 frames.
    settings: dict[str, Any] = {
        "DATA__SAMPLING_RATE": 10,
        "DATA__SHORT_CLIP": "loop",
        "TEST__NUM_SPATIAL_CROPS": 3,
    }
    loader = build_loader(tiny_cfg(**AUGMENTED, **settings), split)
    whole = next(iter(loader)).frames
    for max_frames in (1, 3):
        monkeypatch.setattr(loader.dataset.transform, "chunk_bytes", max_frames * 3 * 64 * 80)
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
    plain = next(iter(build_loader(tiny_cfg(**as_frames), "test"))).frames
    swapped = next(
        iter(build_loader(tiny_cfg(**as_frames, DATA__REVERSE_INPUT_CHANNEL=True), "test"))
    ).frames
    assert torch.equal(plain, swapped.flip(1))
    # The same seed gives the same scenes as videos, which come as RGB and differ by compression alone.
    videos = next(
        iter(
            build_loader(tiny_cfg(DATA__NUM_FRAMES=8, DATA__LABEL_PATH_TEMPLATE="val.csv"), "test")
        )
    ).frames
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
    # 32 frames, 4 segments of 7.75, two clips: a third and two thirds of a segment, 2 and 5 frames, into each.
    assert dataset.clips.numbered(32, 0).tolist() == [2, 10, 18, 25]
    assert dataset.clips.numbered(32, 1).tolist() == [5, 13, 21, 28]
    assert len(dataset[Request(0, (View(0, 0, 1), View(1, 1, 1)), seed=None)].frames) == 2


def test_validation_takes_one_centered_view(tiny_cfg: TinyCfg) -> None:
    loader = build_loader(tiny_cfg(DATA__USE_OFFSET_SAMPLING=False), "val")
    assert loader.batch_sampler.views == (View(0, clip=0, crop=1),)
    assert isinstance(loader.dataset, VideoDataset)
    assert loader.dataset.clips.numbered(32, 0)[0] == (32 - 4 * 3) // 2


def test_a_target_frame_rate_resamples_before_clips_are_taken(
    tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    path = write_painted(tmp_path / "video.mp4", 100, fps=50)
    dataset = VideoDataset(
        Annotations([str(path)], [0]),
        open_video=lambda video: VideoFile(video.path),
        clips=DenseClips(num_frames=4, sampling_rate=5, num_clips=1, use_offset=False),
        transform=EvalTransform(short_side=32, crop_size=32, mean=[0.0] * 3, std=[1 / 255] * 3),
        target_fps=25,
    )
    (frames,) = dataset[Request(0, (View(0, 0, 0),), seed=None)].frames
    # At 25 frames/s the clip takes 0, 6, 12, 19 of 50 frames. Of these 4 frames, the two lowest bits:
    shown = (frames[0, :, 16, [8, 24]] > 127).long() @ torch.tensor([1, 2])
    ticks = constant_rate(np.arange(100) / 50, np.full(100, 0.02), fps=25)
    assert ticks.num_ticks == 52  # FFmpeg gives way by a tick before it drops a frame
    assert shown.tolist() == (ticks.frames_at(np.array([0, 6, 12, 19])) % 4).tolist()


def test_a_video_with_a_wrong_time_stamp_is_not_resampled(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(
                np.full((32, 64, 3), number, np.uint8), format="rgb24"
            )
            frame.pts = number if number < 19 else 25 * 100 * 3600  # 100 hours late
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    settings: dict[str, Any] = {
        "open_video": lambda video: VideoFile(video.path),
        "clips": DenseClips(num_frames=4, sampling_rate=5, num_clips=1, use_offset=False),
        "transform": EvalTransform(short_side=32, crop_size=32, mean=[0.0] * 3, std=[1 / 255] * 3),
    }
    request = Request(0, (View(0, 0, 0),), seed=None)
    resampled = VideoDataset(Annotations([str(path)], [0]), target_fps=30, **settings)
    reason = rf"{path}: frame 18 of 20 is shown for 35999\d s, more than 3600 s: a time stamp must"
    assert re.match(reason, resampled[request].unreadable[0].reason)
    assert len(VideoDataset(Annotations([str(path)], [0]), **settings)[request].frames) == 1


def test_problems_of_the_data_are_found_before_any_work(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    assert find_problems(tiny_cfg()) == []
    assert find_problems(tiny_cfg(TRAIN__DATASET="kinetic")) == [
        f"TRAIN.DATASET is 'kinetic'; choose from {', '.join(DATASETS)}"
    ]
    assert (
        "AUG.AA_TYPE: 'x' is not" in find_problems(tiny_cfg(AUG__ENABLE=True, AUG__AA_TYPE="x"))[0]
    )
    missing = find_problems(tiny_cfg(DATA__PATH_TO_DATA_DIR=tmp_path))
    assert [problem.split(":")[0] for problem in missing] == [
        f"{tmp_path}/{split}.csv" for split in ("train", "val", "test")
    ]
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    assert "2 names, but" in find_problems(tiny_cfg(DATA__CLASS_NAMES=tmp_path / "names.txt"))[0]
    assert (
        "line 8 has the label 7"
        in find_problems(tiny_cfg(MODEL__NUM_CLASSES=7, DATA__CLASS_NAMES=""))[0]
    )


def test_class_names_are_one_for_each_class(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    assert build_class_names(tiny_cfg())[:2] == ["left", "right"]
    assert build_class_names(tiny_cfg(DATA__CLASS_NAMES=""))[:2] == ["0", "1"]
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match=r"names\.txt has 2 names, but MODEL\.NUM_CLASSES is 8"):
        build_class_names(tiny_cfg(DATA__CLASS_NAMES=tmp_path / "names.txt"))


def test_the_list_is_kept_in_columns() -> None:
    rows = Annotations([f"video {number}.mp4" for number in range(1000)], list(range(1000)))
    assert rows[999] == Video("video 999.mp4", 999, None)
    assert not [value for value in vars(rows).values() if isinstance(value, list | dict)]
