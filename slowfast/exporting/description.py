"""Description of an exported model: what a program needs to know to use the file, as plain data.

It is stored as JSON in the metadata of the file.
"""

from typing import Any

import torch

from slowfast import __version__
from slowfast.datasets.sampling import DenseClips
from slowfast.exporting.capture import FRAMES, ExportOptions
from slowfast.inference.classifier import Classifier
from slowfast.inference.exported import describe_clips
from slowfast.utils.exported_folder import LIBRARY

METADATA_KEY = "slowfast"  # key of the description in the metadata of a file

_FORMAT = 1


def describe(classifier: Classifier, options: ExportOptions) -> dict[str, Any]:
    """Return the description of an exported classifier.

    Its entries are `input` (name, dtype, shape and channel order, with the mean and the standard
    deviation that normalize pixels in the range [0, 1]), `output`, `clip` (how to take clips from a
    video, see `ClipSettings`), `class_names`, and the versions that wrote it.
    """
    settings = classifier.settings
    num_channels, size = len(settings.mean), settings.crop_size
    shape: list[int | str] = [0, num_channels, settings.num_frames, size, size]
    for axis, name in options.dynamic_axes.items():
        shape[axis] = name

    return {
        "library": LIBRARY,
        "format": _FORMAT,
        "version": __version__,
        "torch": str(torch.__version__),
        "model": type(classifier.model).__name__,
        "input": {
            "name": FRAMES,
            "dtype": "uint8" if options.uint8 else "float32",
            "shape": shape,
            "channel_order": settings.channel_order,
            "mean": list(settings.mean),
            "std": list(settings.std),
        },
        "output": {"name": options.output, "shape": ["batch", len(classifier.class_names)]},
        "clip": _describe_clips(classifier),
        "temperature": classifier.temperature,
        "class_names": classifier.class_names,
    }


def _describe_clips(classifier: Classifier) -> dict[str, Any]:
    clips = classifier.reader.clip_reader.clips
    dense = clips if isinstance(clips, DenseClips) else None
    return {
        **describe_clips(classifier.settings)["clip"],
        "use_offset": dense.use_offset if dense else None,
        "loop": dense.loop if dense else None,
    }
