"""Frame numbers of dense and segment clips, and of a constant frame rate."""

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

    # The step is 31 / 7 = 4.43 frames: 0, 4.4, 8.9, 13.3, 17.7, 22.1, 26.6, 31, truncated.
    assert clips.numbered(100, 0).tolist() == [0, 4, 8, 13, 17, 22, 26, 31]


def test_a_short_video_repeats_its_last_frame() -> None:
    clips = DenseClips(num_frames=8, sampling_rate=4, num_clips=1, use_offset=True)
    assert clips.numbered(10, 0).tolist() == [0, 4, 8, 9, 9, 9, 9, 9]


@pytest.mark.parametrize("total", [1, 2, 5, 9])
def test_a_looped_short_video_starts_over(total: int) -> None:
    clips = DenseClips(num_frames=5, sampling_rate=2, num_clips=1, use_offset=True, loop=True)

    # A clip takes the frames 0, 2, 4, 6 and 9 of an endless repetition.
    assert clips.numbered(total, 0).tolist() == [number % total for number in (0, 2, 4, 6, 9)]
    assert set(clips.random(total, np.random.default_rng(0))) <= set(range(total))

    without_loop = clips._replace(loop=False)
    assert clips.numbered(50, 0).tolist() == without_loop.numbered(50, 0).tolist()


def test_dense_clips_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("temporal_sampling")["dense"]:
        clips = DenseClips(
            case["num_frames"],
            case["sampling_rate"],
            case["num_clips"],
            case["use_offset_sampling"],
        )
        numbers = clips.numbered(case["total_frames"], case["clip_idx"])
        assert numbers.tolist() == case["indices"], case


def test_segment_clips_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("temporal_sampling")["segment"]:
        clips = SegmentClips(case["num_frames"], case["num_views"])
        one_based = []
        for clip in range(case["num_views"]):
            one_based.append((clips.numbered(case["total_frames"], clip) + 1).tolist())
        assert one_based == case["one_based_indices"], case


def test_segment_bounds_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("temporal_sampling")["segment_train_bounds"]:
        bounds = (segment_bounds(case["total_frames"], num_frames=case["num_frames"]) + 1).tolist()
        assert [list(pair) for pair in pairwise(bounds)] == case["inclusive_one_based_ranges"]


def test_random_dense_clips_have_the_published_distribution() -> None:
    clips = DenseClips(num_frames=4, sampling_rate=2, num_clips=1, use_offset=True)
    total, num_draws = 11, 20_000
    actual: Counter[tuple[int, ...]] = Counter()
    for seed in range(num_draws):
        actual[tuple(clips.random(total, np.random.default_rng(seed)).tolist())] += 1

    # Oracle: the published draw is a uniform real start and a float linspace, truncated.
    starts = np.random.default_rng(1).uniform(0, total - 8, num_draws)
    expected: Counter[tuple[int, ...]] = Counter()
    for start in starts:
        expected[tuple(np.linspace(start, start + 7, 4).astype(int).tolist())] += 1

    assert set(actual) == set(expected)
    for clip, count in expected.items():
        assert abs(actual[clip] - count) < 5 * np.sqrt(count)


def test_random_frames_reach_both_ends_of_their_segment() -> None:
    clips = SegmentClips(num_frames=4, num_clips=1)
    drawn = np.stack([clips.random(21, np.random.default_rng(seed)) for seed in range(500)])
    assert drawn.min(axis=0).tolist() == [0, 5, 10, 15]
    assert drawn.max(axis=0).tolist() == [5, 10, 15, 20]


@pytest.mark.parametrize("total", [1, 2, 7, 40])
@pytest.mark.parametrize("clips", [DenseClips(8, 4, 1, True), SegmentClips(8, 1)])
def test_random_clips_stay_within_the_video(clips: DenseClips | SegmentClips, total: int) -> None:
    for seed in range(50):
        indices = clips.random(total, np.random.default_rng(seed))
        assert len(indices) == 8
        assert 0 <= indices.min() <= indices.max() < total


def test_a_constant_rate_takes_the_frames_ffmpeg_extracts(
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


def test_only_the_requested_ticks_take_memory() -> None:
    # One frame every 50 minutes makes 60 * 90,000 ticks at 30 per second.
    times = np.arange(0, 60 * 3000, 3000, dtype=np.float64)
    tracemalloc.start()
    ticks = constant_rate(times, np.full(60, 3000.0), fps=30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert ticks.num_ticks == 60 * 90_000
    assert ticks.frames_at(np.array([0, 89_000, 2 * 90_000, 5_399_999])).tolist() == [0, 0, 2, 59]
    assert peak < 100_000


@pytest.mark.parametrize("damaged", ["time", "duration"])
def test_a_frame_shown_for_days_is_refused(damaged: str) -> None:
    times, durations = np.arange(60) / 25, np.full(60, 1 / 25)
    if damaged == "time":
        times[-1] = 1e12
    else:
        durations[58] = 1e12
    with pytest.raises(ValueError, match=r"frame 58 of 60 is shown for \d+ s, more than 3600 s"):
        constant_rate(times, durations, fps=30)
