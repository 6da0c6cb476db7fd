"""Reads what trackers recorded, in their own files."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

_BLOCK, _HEADER, _FILE_HEADER = 1 << 15, 7, 7  # bytes of the log format of LevelDB

Points = dict[str, list[tuple[int, float]]]  # steps and values by tag


def tensorboard_points(folder: Path) -> Points:
    """Return all points in the event files of a folder, as they are written."""
    points: Points = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = value.tensor.float_val[0] if value.tensor.float_val else float("nan")
                points.setdefault(value.tag, []).append((event.step, number))
    return points


def json_points(folder: Path) -> Points:
    points: Points = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        step = row.pop("step")
        for tag, value in row.items():
            points.setdefault(tag, []).append((step, value))
    return points


def wandb_records(folder: Path) -> Iterator[Any]:
    """Yield the records of all offline runs in a folder, in the order of the runs."""
    from wandb.proto import wandb_internal_pb2

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for content in _log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            yield record


def wandb_points(folder: Path) -> Points:
    points: Points = {}
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") != "history":
            continue
        row = {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for tag, value in row.items():
            if isinstance(value, float | int) and "/" in tag:
                points.setdefault(tag, []).append((row["step"], value))
    return points


def _log_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file in the log format of LevelDB, after its own header."""
    position, parts = _FILE_HEADER, b""
    while position + _HEADER <= len(content):
        if _BLOCK - position % _BLOCK < _HEADER:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + _HEADER])
        position += _HEADER
        parts += content[position : position + length]
        position += length
        if kind in (1, 4):  # full, last
            yield parts
            parts = b""
