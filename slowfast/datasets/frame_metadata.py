"""Frame metadata: orientation, color matrix and color range of decoded frames."""

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

MAX_TILT = math.tan(math.radians(1))  # a quarter turn may be off by one degree, as in FFmpeg
FIXED_POINT = 1 << 16  # scale of the integers in a display matrix
HDR_TRANSFERS = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}

# Values of AVColorSpace.
RGB, UNSPECIFIED = 0, 2

# Names of AVColorSpace in FFmpeg's `scale` filter. Untagged video is BT.601, as in FFmpeg.
_SCALE_NAMES = {
    1: "bt709",
    UNSPECIFIED: "smpte170m",
    4: "fcc",
    5: "bt470",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020",
}

# Numbers of AVColorSpace in swscale.
_SWS_COLORSPACES = {1: 1, UNSPECIFIED: 5, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}

# Values of AVColorSpace that swscale cannot convert.
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
    """Raised for a frame with metadata that cannot be honored."""


class Orientation(NamedTuple):
    """One of the eight ways to show a frame upright: transpose it if needed, then mirror it."""

    is_transposed: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def turn(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an upright view of an image (H, W, 3)."""
        if self.is_transposed:
            image = image.swapaxes(0, 1)
        if self.mirrors_y:
            image = image[::-1]
        if self.mirrors_x:
            image = image[:, ::-1]
        return image

    def filters(self) -> list[str]:
        """Return the FFmpeg filters that do the same, with their arguments."""
        transpose = ["transpose=cclock_flip"] * self.is_transposed
        return transpose + ["hflip"] * self.mirrors_x + ["vflip"] * self.mirrors_y


def read_orientation(frame: av.VideoFrame) -> Orientation:
    """Return the orientation in the display matrix of a frame, or upright if it has none.

    The translation and the scale of the matrix have no effect, as in FFmpeg and most players.

    Raises:
        UnsupportedFrameError: If the matrix is not a quarter turn or its mirror image.
    """
    matrix = _read_display_matrix(frame)
    if matrix is None:
        return Orientation()

    # A pixel at (x, y) is shown at (a x + c y, b x + d y), to the right and down.
    a, b, c, d = (matrix[index] / FIXED_POINT for index in (0, 1, 3, 4))
    if a == b == c == d == 0:  # some programs leave it empty
        return Orientation()
    if a and d and abs(b) <= MAX_TILT * abs(a) and abs(c) <= MAX_TILT * abs(d):
        return Orientation(False, a < 0, d < 0)
    if b and c and abs(a) <= MAX_TILT * abs(b) and abs(d) <= MAX_TILT * abs(c):
        return Orientation(True, c < 0, b < 0)

    degrees = math.degrees(math.atan2(b, a))
    raise UnsupportedFrameError(
        f"its display matrix [{a:.3g} {b:.3g}; {c:.3g} {d:.3g}] turns it by {degrees:.3g} degrees "
        "or distorts it. Only quarter turns and mirror images are supported. Re-encode the video "
        "upright, as ffmpeg does"
    )


def _read_display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    # `frame.side_data` would be cached by the frame and refer back to it, and this cycle would keep
    # the frame in memory until the garbage collector runs.
    try:
        side_data = SideDataContainer(frame)  # type: ignore[call-arg]
    except ValueError:  # PyAV has no name for some side data of this frame
        side_data = SideDataContainer(_remove_unnamed(frame))  # type: ignore[call-arg]

    if Type.DISPLAYMATRIX not in side_data:
        return None
    return struct.unpack("=9i", bytes(side_data[Type.DISPLAYMATRIX]))


def _remove_unnamed(frame: av.VideoFrame) -> av.VideoFrame:
    """Remove the kinds of side data that PyAV has no name for, such as EXIF in Motion JPEG."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    unnamed = set(range(64)) - {kind.value for kind in Type}
    deleters = [graph.add("sidedata", f"mode=delete:type={kind}") for kind in sorted(unnamed)]
    graph.link_nodes(source, *deleters, graph.add("buffersink")).configure()

    graph.vpush(frame)
    return graph.vpull()


def read_color_matrix(frame: av.VideoFrame) -> int:
    """Return the AVColorSpace that FFmpeg assumes for a frame.

    Raises:
        UnsupportedFrameError: If FFmpeg cannot convert from it.
    """
    if _is_rgb(frame.format):
        return RGB

    tag = int(frame.colorspace)
    if tag in _UNSUPPORTED_NAMES:
        raise UnsupportedFrameError(
            f"its colors are {_UNSUPPORTED_NAMES[tag]} (color space {tag}), which FFmpeg's scaler "
            "cannot convert. Encode it in BT.709, for example with FFmpeg's filter "
            "`zscale=matrix=709`"
        )
    return tag if tag in _SCALE_NAMES else UNSPECIFIED


def sws_colorspace(matrix: int) -> int | None:
    """Return the swscale number of a color matrix from `read_color_matrix`, or None for RGB."""
    return _SWS_COLORSPACES.get(matrix)


def scale_name(matrix: int) -> str:
    """Return the name of a color matrix from `read_color_matrix` in FFmpeg's `scale` filter."""
    return _SCALE_NAMES[matrix]


def drop_transfer(frame: av.VideoFrame) -> None:
    """Remove the transfer and primaries tags of a frame.

    They do not affect its conversion, but some versions of swscale reject them.
    """
    frame.color_trc = int(ColorTrc.UNSPECIFIED)
    frame.color_primaries = int(ColorPrimaries.UNSPECIFIED)


def read_color_range(frame: av.VideoFrame) -> ColorRange:
    """Return the color range that FFmpeg assumes for a frame, full (JPEG) or limited (MPEG)."""
    name = frame.format.name
    is_full = _is_rgb(frame.format) or name.startswith(("yuvj", "gray", "ya"))  # whatever the tag
    if is_full or frame.color_range == ColorRange.JPEG:
        return ColorRange.JPEG
    return ColorRange.MPEG


def _is_rgb(pixel_format: av.VideoFormat) -> bool:
    if pixel_format.is_rgb or pixel_format.has_palette:
        return True
    return pixel_format.name.startswith(("xyz", "mono"))
