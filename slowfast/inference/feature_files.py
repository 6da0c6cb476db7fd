"""Feature files: features of the videos of a list in safetensors shards, with a Parquet index.

A folder of features has three kinds of files:

    features.json                what was extracted, from which weights and which list
    features_00000.safetensors   a shard: tensors `features`, shape (n, ...), and `row`, shape (n,)
    index.parquet                one row per feature, and one per video without features

The index is written last, so a folder with an index is complete. Features follow the order of the
list, and all shards but the last have the same number of them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open

from slowfast.datasets.samplers import CENTER_CROP
from slowfast.utils.command_names import command_name
from slowfast.utils.files import read_json, write_json

RECORD_NAME = "features.json"
INDEX_NAME = "index.parquet"
READ, UNREADABLE, NONFINITE = "read", "unreadable", "nonfinite"
SHARD_BYTES = 128 << 20  # features of a shard
FEATURES, ROW = "features", "row"  # tensors of a shard

_VERSION = 1
_REMEDY = "Extract the features again"

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # row of the list, from 0
        ("path", pa.string()),  # name of the video
        ("label", pa.int32()),  # null if the list has no labels
        ("clip", pa.int32()),  # temporal clip, null for the mean over all clips
        ("crop", pa.int32()),  # 0 left or top, 1 center, 2 right or bottom, null for a mean
        ("start", pa.float64()),  # seconds from the first frame of the file, null if unknown
        ("end", pa.float64()),
        ("shard", pa.int32()),  # number of the shard
        ("offset", pa.int64()),  # position in the shard
        ("status", pa.string()),  # read | unreadable | nonfinite
        ("reason", pa.string()),  # why there are no features, "" otherwise
    ]
)


class FeatureRecord(NamedTuple):
    """What was extracted, `features.json`.

    Attributes:
        identity: Everything that the features depend on, as plain data: settings of the test,
            checksums of the weights and of the list, `split`, `stage`, `tokens` and `per`.
        class_names: Names of the classes of the labels.
        num_videos: Number of videos of the list.
        features_per_video: Number of features of a video that was read.
        shape: Shape of a feature: (C,), or (N, C) for N tokens.
        fusion: How the test combines the views of a video, DATA.ENSEMBLE_METHOD.
        weights: Path of the weights.
        list_path: Path of the list.
        config: Config of the extraction as YAML.
    """

    identity: dict[str, Any]
    class_names: list[str]
    num_videos: int
    features_per_video: int
    shape: tuple[int, ...]
    fusion: str
    weights: str
    list_path: str
    config: str

    @property
    def features_per_shard(self) -> int:
        """Number of features of each shard but the last one."""
        return max(SHARD_BYTES // (4 * int(np.prod(self.shape))), 1)

    def clips_and_crops(self) -> tuple[list[int | None], list[int | None]]:
        """Return the clip and the crop of each feature of a video, None for a mean over them."""
        num_clips, num_crops = self.identity["num_clips"], self.identity["num_crops"]
        if self.identity["per"] == "video":
            return [None], [None]
        if self.identity["per"] == "clip":
            return [*range(num_clips)], [None] * num_clips

        crops = [CENTER_CROP] if num_crops == 1 else [*range(num_crops)]
        clips = [clip for clip in range(num_clips) for _ in crops]
        return [*clips], crops * num_clips


@dataclass(frozen=True)
class StoredFeatures:
    """Features in a folder. They are read when they are indexed, and look like one array.

    Args:
        folder: The folder.
        record: What was extracted.
        shards: One array per shard, mapped from the file.
    """

    folder: Path
    record: FeatureRecord
    shards: tuple[NDArray[np.float32], ...]

    def __len__(self) -> int:
        """Return the number of features."""
        return sum(map(len, self.shards))

    def __getitem__(self, positions: int | slice | ArrayLike) -> NDArray[np.float32]:
        """Return a copy of one feature, of a slice, or of the features at some positions.

        A mask (bool, one per feature) works as in numpy.

        Raises:
            IndexError: If there is no such feature.
        """
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(len(self)))
        elif (mask := np.asarray(positions)).dtype == bool:
            positions = np.arange(len(self))[mask]
        wanted = np.asarray(positions, np.int64)
        if wanted.size and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"there are {len(self)} features, from 0 to {len(self) - 1}")

        flat = wanted.ravel() % max(len(self), 1)
        numbers, offsets = np.divmod(flat, self.record.features_per_shard)
        out = np.empty((len(flat), *self.record.shape), np.float32)
        for number in np.unique(numbers):
            is_here = numbers == number
            out[is_here] = self.shards[number][offsets[is_here]]
        return out.reshape(*wanted.shape, *self.record.shape)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Row of the list of each feature, shape (len,)."""
        return self._column("row", missing=-1)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Label of each feature, shape (len,), -1 if the list has none."""
        return self._column("label", missing=-1)

    def index(self, *columns: str) -> pa.Table:
        """Return columns of the index, all of them by default. See `SCHEMA`."""
        return read_index(self.folder, columns=columns or SCHEMA.names)

    def _column(self, name: str, *, missing: int) -> NDArray[np.int64]:
        table = self.index(name, "status")
        table = table.filter(pc.equal(table["status"], READ))
        values: NDArray[np.int64] = table[name].fill_null(missing).to_numpy().astype(np.int64)
        return values


def open_features(folder: str | Path) -> StoredFeatures:
    """Open a folder of features. Only its index is read.

    Args:
        folder: Folder with `features.json`.

    Raises:
        FileNotFoundError: If the folder has no features, or the extraction is not finished.
        ValueError: If a file is damaged or of another version.
    """
    folder = Path(folder).expanduser()
    record = read_record(folder)
    if not (folder / INDEX_NAME).is_file():
        raise FileNotFoundError(
            f"{folder}: the extraction is not finished ({INDEX_NAME} is missing). The same command "
            "continues it"
        )

    status = read_index(folder, columns=["status"])["status"]
    num_left = pc.sum(pc.equal(status, READ)).as_py() or 0
    shards: list[NDArray[np.float32]] = []
    while num_left:
        length = min(record.features_per_shard, num_left)
        path = shard_path(folder, len(shards))
        shards.append(_map_shard(path, shape=(length, *record.shape)))
        num_left -= length
    return StoredFeatures(folder, record, tuple(shards))


def write_record(folder: Path, record: FeatureRecord) -> None:
    """Write `features.json`, before any feature.

    Raises:
        OSError: If it cannot be written.
    """
    write_json(folder / RECORD_NAME, {"version": _VERSION, **record._asdict()})


def read_record(folder: Path) -> FeatureRecord:
    """Return the record of a folder of features.

    Raises:
        FileNotFoundError: If the folder has none.
        ValueError: If it is damaged or of another version.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: holds no features ({RECORD_NAME} is missing). Name the folder of a split "
            f"that {command_name('features')} wrote"
        )
    content = read_json(path, remedy=_REMEDY)
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise ValueError(f"{path}: has version {version}, and not {_VERSION}. {_REMEDY}")

    try:
        record = FeatureRecord(**{name: content[name] for name in FeatureRecord._fields})
    except KeyError as error:
        raise ValueError(f"{path}: lacks {error}. {_REMEDY}") from error
    return record._replace(shape=tuple(record.shape))


def read_index(folder: Path, *, columns: Iterable[str]) -> pa.Table:
    """Return columns of the index of a folder.

    Raises:
        FileNotFoundError: If there is no index.
        ValueError: If it is damaged.
    """
    path = folder / INDEX_NAME
    try:
        return pq.read_table(path, columns=[*columns], page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: is damaged ({reason}). {_REMEDY}") from error


def unread_reasons(folder: Path, *, limit: int) -> list[str]:
    """Return why the first videos without features have none, at most `limit` of them."""
    table = read_index(folder, columns=["status", "path", "reason"])
    table = table.filter(pc.not_equal(table["status"], READ)).slice(0, limit)
    reasons = []
    for status, path, reason in zip(*(column.to_pylist() for column in table.columns), strict=True):
        reasons.append(reason if status == UNREADABLE else f"{path}: {reason}")
    return reasons


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"features_{number:05d}.safetensors"


def _map_shard(path: Path, *, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Map the features of a shard into memory, after a check of its header and its size."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file, but the index names it. {_REMEDY}")
    try:
        with safe_open(path, framework="np") as shard:
            found = tuple(shard.get_slice(FEATURES).get_shape())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: is truncated or damaged ({error}). {_REMEDY}") from error
    if found != shape:
        raise ValueError(f"{path}: has features {found}, but the index has {shape}. {_REMEDY}")

    with open(path, "rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    start = 8 + header_bytes + header[FEATURES]["data_offsets"][0]
    return np.memmap(path, np.float32, mode="r", offset=start, shape=shape)
