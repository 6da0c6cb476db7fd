"""Frames by number: `VideoFile` reads a video file, `FrameFolder` a folder of image files.

Both are context managers with `num_frames`, `fps`, `codec` and `read(numbers)`. They return exactly
the frames that decoding the whole file in order gives, whatever you read before. Both raise
`DecodeError`, and its message names the file. `FrameArray` has frames in memory. All three are a
`FrameSource`.

This module is the public face of `slowfast.datasets.decoding`, where each step from the file to the
array has a module of its own. Import from here: the modules behind it may move.
"""

from slowfast.datasets.decoding.frame_array import FrameArray
from slowfast.datasets.decoding.frame_folder import FrameFolder, check_template
from slowfast.datasets.decoding.frame_source import FrameSource, FrameTimes, at_rate
from slowfast.datasets.decoding.video_file import VideoFile
from slowfast.datasets.records import DecodeError, TruncatedError

__all__ = [
    "DecodeError",
    "FrameArray",
    "FrameFolder",
    "FrameSource",
    "FrameTimes",
    "TruncatedError",
    "VideoFile",
    "at_rate",
    "check_template",
]
