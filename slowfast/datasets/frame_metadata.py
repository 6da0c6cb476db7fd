"""Frame metadata: what a decoded frame says of its orientation and of its colors."""

import math
import struct
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from numpy.typing import NDArray

MAX_TILT = math.tan(math.radians(1))  # a quarter turn may be off by a degree, as in ffmpeg
HDR_TRANSFERS = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}

RGB, UNSPECIFIED = 0, 2  # of AVColorSpace
# AVColorSpace -> the name that FFmpeg's `scale` filter has for it. Untagged video is BT.601, as in FFmpeg.
_SCALE_NAMES = {
    1: "bt709",
    UNSPECIFIED: "smpte170m",
    4: "fcc",
    5: "bt470",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020",
}
# AVColorSpace -> the number that swscale has for it.
_SWS_COLORSPACES = {1: 1, UNSPECIFIED: 5, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
# AVColorSpace that swscale cannot convert.
_UNSUPPORTED_NAMES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "chroma-derived",
    13: "chroma-derived with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}


class UnsupportedFrameError(ValueError):
    """A frame whose metadata ask for something that cannot be done."""


class Orientation(NamedTuple):
    """How to show a frame upright: exchange its axes, then mirror it. There are eight ways."""

    is_transposed: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def turn(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image (H, W, 3) upright, as a view."""
        if self.is_transposed:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.mirrors_y else 1, :: -1 if self.mirrors_x else 1]

    def filters(self) -> list[str]:
        """Return the names of the filters of FFmpeg that do the same, with their arguments."""
        transpose = ["transpose=cclock_flip"] if self.is_transposed else []
        return transpose + ["hflip"] * self.mirrors_x + ["vflip"] * self.mirrors_y


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Return the orientation that the display matrix of a frame asks for; upright where there is none.

    The translation and the scale of the matrix have no effect, as in ffmpeg and most players.

    Raises:
        UnsupportedFrameError: The matrix is no quarter turn, mirrored or not.
    """
    matrix = _display_matrix(frame)
    if matrix is None:
        return Orientation()

    # A pixel at (x, y) is shown at (a x + c y, b x + d y): to the right and down.
    a, b, c, d = (matrix[index] / (1 << 16) for index in (0, 1, 3, 4))
    if a == b == c == d == 0:  # some programs leave it empty
        return Orientation()
    if a and d and abs(b) <= MAX_TILT * abs(a) and abs(c) <= MAX_TILT * abs(d):
        return Orientation(False, a < 0, d < 0)
    if b and c and abs(a) <= MAX_TILT * abs(b) and abs(d) <= MAX_TILT * abs(c):
        return Orientation(True, c < 0, b < 0)

    degrees = math.degrees(math.atan2(b, a))
    raise UnsupportedFrameError(
        f"its display matrix [{a:.3g} {b:.3g}; {c:.3g} {d:.3g}] turns it by {degrees:.3g} degrees or distorts it; "
        "only quarter turns and mirror images can be read. Encode it upright, as ffmpeg does"
    )


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    try:
        # Not `frame.side_data`: a frame keeps that, which refers to it, and lasts until Python looks for such cycles.
        side_data = SideDataContainer(frame)  # type: ignore[call-arg]
    except ValueError:  # PyAV has no name for another kind of side data of this frame
        side_data = SideDataContainer(_without_unnamed(frame))  # type: ignore[call-arg]
    if Type.DISPLAYMATRIX not in side_data:
        return None
    return struct.unpack("=9i", bytes(side_data[Type.DISPLAYMATRIX]))


def _without_unnamed(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame without the kinds of side data that PyAV cannot name, such as EXIF in Motion JPEG."""
    unnamed = set(range(64)) - {kind.value for kind in Type}
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        ),
        *(graph.add("sidedata", f"mode=delete:type={number}") for number in sorted(unnamed)),
        graph.add("buffersink"),
    ).configure()
    graph.vpush(frame)
    return graph.vpull()


def matrix_of(frame: av.VideoFrame) -> int:
    """Return the AVColorSpace that FFmpeg takes the pixels of a frame for.

    Raises:
        UnsupportedFrameError: FFmpeg cannot convert from it.
    """
    if _is_rgb(frame.format):
        return RGB
    tag = int(frame.colorspace)
    if tag in _UNSUPPORTED_NAMES:
        raise UnsupportedFrameError(
            f"its colors are {_UNSUPPORTED_NAMES[tag]} (color space {tag}), which FFmpeg's scaler cannot convert; "
            "encode it in BT.709, for example with FFmpeg's filter `zscale=matrix=709`"
        )
    return tag if tag in _SCALE_NAMES else UNSPECIFIED


def sws_colorspace(matrix: int) -> int | None:
    """Return the number of swscale for an AVColorSpace, as `matrix_of` gives it; None for RGB."""
    return _SWS_COLORSPACES.get(matrix)


def scale_name(matrix: int) -> str:
    """Return the name of an AVColorSpace, as `matrix_of` gives it, in the options of FFmpeg's `scale` filter."""
    return _SCALE_NAMES[matrix]


def drop_transfer(frame: av.VideoFrame) -> None:
    """Remove the tags of a frame that have no effect on its conversion, but that some versions of swscale refuse."""
    frame.color_trc = int(ColorTrc.UNSPECIFIED)
    frame.color_primaries = int(ColorPrimaries.UNSPECIFIED)


def range_of(frame: av.VideoFrame) -> ColorRange:
    """Return the range that FFmpeg takes the pixels of a frame for: full (JPEG) or limited (MPEG)."""
    name = frame.format.name
    is_full = _is_rgb(frame.format) or name.startswith(("yuvj", "gray", "ya"))  # whatever the tag
    return ColorRange.JPEG if is_full or frame.color_range == ColorRange.JPEG else ColorRange.MPEG


def _is_rgb(pixel_format: av.VideoFormat) -> bool:
    return (
        pixel_format.is_rgb
        or pixel_format.has_palette
        or pixel_format.name.startswith(("xyz", "mono"))
    )
