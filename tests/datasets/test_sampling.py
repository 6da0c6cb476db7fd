import tracemalloc
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from slowfast.datasets.sampling import DenseClips, SegmentClips, constant_rate, segment_bounds


def test_dense_test_clips_by_hand() -> None:
    # 100 frames, a clip spans 8*4=32, so 68 frames of slack over 3 clips: starts 0, 34, 68.
    clips = DenseClips(num_frames=8, sampling_rate=4, num_clips=3, use_offset=True)
    assert [clips.numbered(100, clip)[0] for clip in range(3)] == [0, 34, 68]
    # 31 / 7 = 4.43 frames between two: 0, 4.4, 8.9, 13.3, 17.7, 22.1, 26.6, 31, cut off.
    assert clips.numbered(100, 0).tolist() == [0, 4, 8, 13, 17, 22, 26, 31]


def test_a_short_video_repeats_its_last_frame() -> None:
    clips = DenseClips(num_frames=8, sampling_rate=4, num_clips=1, use_offset=True)
    assert clips.numbered(10, 0).tolist() == [0, 4, 8, 9, 9, 9, 9, 9]


def test_dense_clips_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("temporal_sampling")["dense"]:
        clips = DenseClips(
            case["num_frames"],
            case["sampling_rate"],
            case["num_clips"],
            case["use_offset_sampling"],
        )
        assert clips.numbered(case["total_frames"], case["clip_idx"]).tolist() == case["indices"], (
            case
        )


def test_segment_clips_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("temporal_sampling")["segment"]:
        clips = SegmentClips(case["num_frames"], case["num_views"])
        one_based = [
            (clips.numbered(case["total_frames"], clip) + 1).tolist()
            for clip in range(case["num_views"])
        ]
        assert one_based == case["one_based_indices"], case


def test_segment_bounds_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("temporal_sampling")["segment_train_bounds"]:
        bounds = (segment_bounds(case["total_frames"], num_frames=case["num_frames"]) + 1).tolist()
        assert [list(pair) for pair in pairwise(bounds)] == case["inclusive_one_based_ranges"]


def test_random_dense_clips_are_distributed_as_with_a_real_start() -> None:
    # Oracle: the published draw, a uniform real start and a float linspace, cut off.
    clips = DenseClips(num_frames=4, sampling_rate=2, num_clips=1, use_offset=True)
    total, draws = 11, 20_000
    ours = Counter(
        tuple(clips.random(total, np.random.default_rng(seed)).tolist()) for seed in range(draws)
    )
    rng = np.random.default_rng(1)
    starts = rng.uniform(0, total - 8, draws)
    theirs = Counter(
        tuple(np.linspace(start, start + 7, 4).astype(int).tolist()) for start in starts
    )
    assert set(ours) == set(theirs)
    for clip, count in theirs.items():
        assert abs(ours[clip] - count) < 5 * np.sqrt(count)


def test_random_segment_frames_reach_both_ends_of_their_segment() -> None:
    clips = SegmentClips(num_frames=4, num_clips=1)
    drawn = np.stack([clips.random(21, np.random.default_rng(seed)) for seed in range(500)])
    assert drawn.min(axis=0).tolist() == [0, 5, 10, 15]
    assert drawn.max(axis=0).tolist() == [5, 10, 15, 20]


@pytest.mark.parametrize("total", [1, 2, 7, 40])
def test_random_clips_stay_within_the_video(total: int) -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        for indices in (
            DenseClips(8, 4, 1, True).random(total, rng),
            SegmentClips(8, 1).random(total, rng),
        ):
            assert len(indices) == 8
            assert 0 <= indices.min() <= indices.max() < total


def test_a_constant_rate_takes_the_frames_that_ffmpeg_extracts(
    reference: Callable[[str], Any],
) -> None:
    for case in reference("constant_rate")["cases"]:
        unit = float(Fraction(case["time_base"]))
        times, durations = np.array(case["times"]) * unit, np.array(case["durations"]) * unit
        ticks = constant_rate(times - times[0], durations, fps=case["fps"])
        assert ticks.frames_at(np.arange(ticks.num_ticks)).tolist() == case["frames"], case["name"]


def test_a_constant_rate_of_one_frame_is_that_frame() -> None:
    ticks = constant_rate(np.zeros(1), np.zeros(1), fps=30)
    assert (ticks.num_ticks, ticks.frames_at(np.zeros(1, int)).tolist()) == (1, [0])


def test_only_the_ticks_that_are_asked_for_take_memory() -> None:
    # A frame every 50 minutes: 60 * 90,000 ticks at 30 per second.
    times = np.arange(0, 60 * 3000, 3000, dtype=np.float64)
    tracemalloc.start()
    ticks = constant_rate(times, np.full(60, 3000.0), fps=30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ticks.num_ticks == 60 * 90_000
    assert ticks.frames_at(np.array([0, 89_000, 2 * 90_000, 5_399_999])).tolist() == [0, 0, 2, 59]
    assert peak < 100_000


@pytest.mark.parametrize("wrong", ["time", "duration"])
def test_a_frame_that_is_shown_for_days_is_refused(wrong: str) -> None:
    times, durations = np.arange(60) / 25, np.full(60, 1 / 25)
    if wrong == "time":
        times[-1] = 1e12
    else:
        durations[58] = 1e12
    with pytest.raises(ValueError, match=r"frame 58 of 60 is shown for \d+ s, more than 3600 s"):
        constant_rate(times, durations, fps=30)


@pytest.mark.parametrize("total", [1, 2, 5, 9])
def test_a_short_video_starts_over_where_it_should(total: int) -> None:
    clips = DenseClips(num_frames=5, sampling_rate=2, num_clips=1, use_offset=True, loop=True)
    # A clip takes the frames 0, 2, 4, 6 and 9 of an endless repetition.
    assert clips.numbered(total, 0).tolist() == [number % total for number in (0, 2, 4, 6, 9)]
    assert set(clips.random(total, np.random.default_rng(0))) <= set(range(total))
    long = DenseClips(num_frames=5, sampling_rate=2, num_clips=1, use_offset=True, loop=False)
    assert clips.numbered(50, 0).tolist() == long.numbered(50, 0).tolist()
