"""The explanation of a video: its map, the scores, and the curves that check the map."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from slowfast.explanation.curves import Curves
from slowfast.explanation.frame_maps import FrameMaps
from slowfast.utils.files import write_file


@dataclass(frozen=True)
class Explanation:
    """Where a model sees evidence for a class in a video.

    Attributes:
        path: Name of the video.
        target: Number of the class, a row of the head.
        label: Name of the class.
        class_names: Names of all classes.
        probabilities: Probability of each class, shape (K,).
        logits: Logits of each view, shape (num_views, K), clip by clip.
        method: grad-cam | rollout | scores.
        stage: Stage of Grad-CAM from 1, None for another method.
        maps: Maps of the frames, each computed when you ask for it.
        curves: Deletion and insertion curves, None if they were left out.
    """

    path: str
    target: int
    label: str
    class_names: list[str]
    probabilities: NDArray[np.float64]
    logits: NDArray[np.float32]
    method: str
    stage: int | None
    maps: FrameMaps
    curves: Curves | None

    @property
    def probability(self) -> float:
        """Probability of the target."""
        return float(self.probabilities[self.target])

    def frame(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        """Return the map (H, W) of a frame from 0 to 1, and how often each pixel was seen."""
        return self.maps.frame(number)

    @property
    def map(self) -> NDArray[np.float32]:
        """The maps of all frames, (num_frames, height, width), 0 where no view saw a pixel."""
        return np.stack([self.frame(number)[0] for number in range(self.maps.shape[0])])

    @property
    def counts(self) -> NDArray[np.uint16]:
        """How often each pixel was seen, (num_frames, height, width), 0 for not seen."""
        return np.stack([self.frame(number)[1] for number in range(self.maps.shape[0])])

    def as_json(self) -> dict[str, Any]:
        """Return all but the maps as plain data."""
        return {
            "path": self.path,
            "label": self.label,
            "target": self.target,
            "probability": self.probability,
            "method": self.method,
            "stage": self.stage,
            "areas": self.curves.as_json() if self.curves else None,
        }

    def save(self, path: str | Path) -> None:
        """Write the map and all numbers as an NPZ file, whole or not at all.

        It has `map` (float16) and `counts` of shape (num_frames, height, width), `target`,
        `class_names`, `probabilities`, `logits`, `method` and `stage` (0 for none). With curves, it
        has `fractions`, and `deletion_map`, `insertion_map`, `deletion_random` and so on, and their
        areas as `deletion_map_area` and so on. The frames are written one by one.

        Raises:
            OSError: If the file cannot be written.
        """
        write_file(Path(path), self._write_npz)

    def _write_npz(self, file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in self._arrays().items():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
            self._write_frames(archive, "map", np.float16, lambda number: self.frame(number)[0])
            self._write_frames(archive, "counts", np.uint16, lambda number: self.frame(number)[1])

    def _arrays(self) -> Mapping[str, NDArray]:
        arrays: dict[str, NDArray] = {
            "target": np.array(self.target),
            "class_names": np.array(self.class_names),
            "probabilities": self.probabilities,
            "logits": self.logits,
            "method": np.array(self.method),
            "stage": np.array(self.stage or 0),
        }
        if self.curves is None:
            return arrays
        arrays["fractions"] = self.curves.fractions
        for kind in ("deletion", "insertion"):
            for order, curve in getattr(self.curves, kind).items():
                arrays[f"{kind}_{order}"] = curve
                arrays[f"{kind}_{order}_area"] = np.array(self.curves.area(kind, order))
        return arrays

    def _write_frames(
        self,
        archive: zipfile.ZipFile,
        name: str,
        dtype: type[np.generic],
        frame: Callable[[int], NDArray],
    ) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": self.maps.shape,
        }
        with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_2_0(entry, header)
            for number in range(self.maps.shape[0]):
                entry.write(frame(number).astype(dtype).tobytes())
