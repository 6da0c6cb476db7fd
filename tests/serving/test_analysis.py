"""What the page shows of a video: the clips that the models saw."""

import threading
from pathlib import Path

import numpy as np
import pytest

import slowfast
from slowfast.preparation.encode import write_video
from slowfast.serving.analysis import analyze


@pytest.mark.parametrize(("num_frames", "num_clips"), [(8, 1), (32, 2)])
def test_equal_clips_of_a_short_video_are_shown_once(
    models: list[Path], tmp_path: Path, num_frames: int, num_clips: int
) -> None:
    # Both clips of the test span 12 frames.
    levels = np.arange(num_frames, dtype=np.uint8)[:, None, None, None] * 7
    video = tmp_path / "video.mp4"
    write_video(video, np.broadcast_to(levels, (num_frames, 32, 32, 3)).copy(), fps=25)
    classifiers = {"uniformer": slowfast.load(models[0])}
    (result,) = analyze(
        video, classifiers, name="video.mp4", stopped=threading.Event(), with_frames=True
    )
    assert len(result.clips) == num_clips
    assert all(len(clip.frames) == 4 for clip in result.clips)
