"""Frame folders: frames by number from a folder of image files."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from os.path import join
from string import Formatter
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slowfast.datasets.decoding.damage import describe_error
from slowfast.datasets.decoding.images import Frames, empty_planes, stack_in_chunks, to_rgb
from slowfast.datasets.records import DecodeError
from slowfast.utils.paths import forget, pathmgr


class FrameFolder:
    """Frames of a folder of image files, numbered from 0.

    The files may be numbered from 0 or from 1.

    Args:
        path: Path of the folder.
        template: Name of a file as a function of its number, such as `{:05d}.jpg`.
        num_frames: Number of frames according to the list. None counts the files.
        bgr: Whether the channels are in the order blue, green, red.

    Raises:
        DecodeError: If the folder does not exist, holds no such file, or lacks one in between.
        ValueError: If the template does not give each number its own name.
    """

    fps = Fraction(0)  # unknown
    timing = None  # unknown
    codec = "jpeg"

    def __init__(
        self, path: str, *, template: str, num_frames: int | None = None, bgr: bool = False
    ) -> None:
        check_template(template)
        self.path = path
        self.template = template
        self.bgr = bgr

        try:
            self._first = 0 if pathmgr.isfile(self._file_path(0)) else 1
        except OSError as error:  # from a server
            raise DecodeError(f"{path}: {describe_error(error)}") from error
        self.num_frames = num_frames or self._count_files()

    def __enter__(self) -> "FrameFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass  # no file stays open between two reads

    @property
    def shown(self) -> NDArray[np.int64]:
        """Numbers of all frames, ascending. Lists of folders have no spans."""
        return np.arange(self.num_frames)

    def read(self, numbers: Sequence[int]) -> Frames:
        """Return the frames with the given numbers, in the given order, repeats included.

        Args:
            numbers: Frame numbers from 0 to num_frames - 1, at least one.

        Returns:
            Shape (N, H, W, 3), stored channel by channel.

        Raises:
            DecodeError: If a file is missing or damaged, or the files differ in size.
        """
        wanted = list(dict.fromkeys(map(int, numbers)))
        images = dict(zip(wanted, self._images(wanted), strict=True))

        planes = empty_planes(len(numbers), images[wanted[0]])
        for index, number in enumerate(numbers):
            planes[:, index] = images[int(number)].transpose(2, 0, 1)
        return planes.transpose(1, 2, 3, 0)

    def read_in_chunks(self, numbers: Sequence[int], *, max_bytes: int) -> Iterator[Frames]:
        """Yield the frames with ascending numbers in chunks. See `VideoFile.read_in_chunks`."""
        images = self._images(numbers)
        yield from stack_in_chunks(images, num_frames=len(numbers), max_bytes=max_bytes)

    def check_files(self) -> None:
        """Check that the folder has a file for each frame, without reading any file.

        Raises:
            DecodeError: If a file is missing.
        """
        files = self._list_files()
        for number in range(self._first, self._first + self.num_frames):
            if self.template.format(number) not in files:
                raise DecodeError(
                    f"{self._file_path(number)}: missing (one of {self.num_frames} frames)"
                )

    def _images(self, numbers: Sequence[int]) -> Iterator[Frames]:
        shape = None
        for number in numbers:
            image = self._read_image(number)
            shape = shape or image.shape
            if image.shape != shape:
                sizes = " and ".join(map(str, sorted([shape, image.shape])))
                raise DecodeError(f"{self.path}: frames of different sizes, {sizes}")

            yield image[..., ::-1] if self.bgr else image

    def _read_image(self, number: int) -> Frames:
        path = self._file_path(self._first + number)
        try:
            with pathmgr.open(path, "rb") as file, Image.open(file) as image:
                return to_rgb(image)
        except DecodeError as error:
            raise DecodeError(f"{path}: {error}") from error
        # Pillow raises SyntaxError for some damaged files, and DecompressionBombError for images
        # of more than 179 million pixels.
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            reason = f"{describe_error(error)}{forget(path)}"
            raise DecodeError(f"{path}: {reason} (one of {self.num_frames} frames)") from error

    def _file_path(self, file_number: int) -> str:
        return join(self.path, self.template.format(file_number))

    def _list_files(self) -> set[str]:
        try:
            return set(pathmgr.ls(self.path))
        except FileNotFoundError as error:
            raise DecodeError(f"{self.path}: no such folder") from error
        except NotImplementedError as error:
            raise DecodeError(
                f"{self.path}: cannot be listed. Use a list that gives the number of frames"
            ) from error
        except OSError as error:
            raise DecodeError(f"{self.path}: {describe_error(error)}") from error

    def _count_files(self) -> int:
        files = self._list_files()
        num_files = 0
        while num_files < len(files) and self._name(num_files) in files:
            num_files += 1

        missing = self._first + num_files
        numbers = [self._number_in(name) for name in files]
        later = [number for number in numbers if number is not None and number > missing]
        if later:
            raise DecodeError(
                f"{self._file_path(missing)}: missing, "
                f"though {self.template.format(min(later))} is there"
            )
        if not num_files:
            raise DecodeError(f"{self.path}: no file {self._name(0)} (DATA.IMAGE_TEMPLATE)")
        return num_files

    def _name(self, frame_number: int) -> str:
        return self.template.format(self._first + frame_number)

    def _number_in(self, name: str) -> int | None:
        """Return the number in a file name, None if the template does not produce the name."""
        fields = list(Formatter().parse(self.template))
        text_before = fields[0][0]
        start, end = len(text_before), len(name)
        last_text, last_field = fields[-1][:2]
        if last_field is None:  # text after the number
            end -= len(last_text)

        digits = name[start:end]
        if not (digits.isascii() and digits.isdigit()) or self.template.format(int(digits)) != name:
            return None
        return int(digits)


def check_template(template: str) -> None:
    """Check that a template of file names, such as `{:05d}.jpg`, gives each number its own name.

    Raises:
        ValueError: If it does not.
    """
    try:
        is_numbered = template.format(1) != template.format(2)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"the template {template!r} names no file ({error}). Use a name such as {{:05d}}.jpg"
        ) from error

    if not is_numbered:
        raise ValueError(
            f"the template {template!r} gives all frames one name. Use {{:05d}} for the number"
        )
