"""Temperature of a checkpoint: fitted on the result of a test, and stored beside the weights."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.evaluation.calibration import fit_temperature
from slowfast.evaluation.ensemble import weights_checksum
from slowfast.evaluation.fusion import log_softmax
from slowfast.evaluation.members import read_members
from slowfast.evaluation.metrics import MetricCounts, compute_metrics
from slowfast.evaluation.result import Result, require_labels
from slowfast.utils.checksum import sha256_of
from slowfast.utils.command_names import command_name
from slowfast.utils.files import read_json, write_json
from slowfast.utils.provenance import provenance

SUFFIX = ".temperature.json"  # after the full name of the weights file

_VERSION = 1
_REMEDY = f"Run {command_name('calibrate')} on a test of these weights"


class Calibration(NamedTuple):
    """NLL and expected calibration error (in percent) of a temperature."""

    nll: float
    ece: float


class StoredTemperature(NamedTuple):
    """A temperature, what it was fitted on, and what it changes there."""

    temperature: float
    test_id: str
    weights_sha256: str
    ema: bool | None  # whether the EMA weights were tested, None if the test does not say
    list_path: str
    num_videos: int  # scored videos
    before: Calibration
    after: Calibration


def temperature_path(weights: str) -> Path:
    """Return the path of the temperature of a weights file."""
    return Path(f"{weights}{SUFFIX}")


def fit_to_result(result: Result) -> StoredTemperature:
    """Return the temperature that minimizes the NLL of a result.

    The logits are the means over the views. Videos without scores take no part.

    Raises:
        ShardError: If a shard is damaged.
        ValueError: If the list has no labels, or no video has scores.
    """
    require_labels([result], purpose="fit the temperature")
    record = result.record
    labels = result.predictions("label")["label"].to_numpy()

    def batches() -> Iterator[tuple[NDArray[np.float64], NDArray[np.int32]]]:
        for block in read_members([result], combine="logits"):
            yield block.scores[0], labels[block.videos[block.is_scored]]

    temperature = fit_temperature(batches)
    counts = [MetricCounts(len(record.class_names)) for _ in range(2)]
    for logits, batch_labels in batches():
        for divisor, count in zip((1.0, temperature), counts, strict=True):
            count.add(log_softmax(logits / divisor), batch_labels)

    before, after = (
        compute_metrics(count, record.class_names, num_resamples=0) for count in counts
    )
    return StoredTemperature(
        temperature=temperature,
        test_id=record.test_id,
        weights_sha256=weights_checksum(result),
        ema=record.identity.get("TEST.EMA"),
        list_path=record.list_path,
        num_videos=before.num_scored,
        before=Calibration(before.nll, before.ece),
        after=Calibration(after.nll, after.ece),
    )


def check_weights_file(result: Result) -> None:
    """Check that the weights of a result are still the file that was tested.

    Raises:
        FileNotFoundError: If the file is gone.
        ValueError: If the result is of an ensemble or of an address, or the file is another one.
    """
    weights = result.record.weights
    if "members" in result.record.identity:
        raise ValueError(
            f"{result.folder}: is a result of an ensemble, which has no file of weights. Use "
            "--output"
        )
    if "://" in weights:
        raise ValueError(
            f"{result.folder}: its weights are an address, {weights}. Download the file, test it "
            "by its path, or use --output"
        )
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"{weights}: the weights of {result.folder} are gone. Run this tool in the folder "
            "where you started the test if the path is relative, or use --output"
        )
    if sha256_of(weights) != weights_checksum(result):
        raise ValueError(
            f"{weights}: is another file than the one that {result.folder} tested: its SHA-256 "
            "differs. Test it again, or use --output"
        )


def write_temperature(path: Path, stored: StoredTemperature, *, weights: str) -> None:
    """Write a temperature to a JSON file.

    Args:
        path: The file.
        stored: The temperature.
        weights: Path of the weights, for readers.

    Raises:
        OSError: If the file cannot be written.
    """
    content = {
        "version": _VERSION,
        "temperature": stored.temperature,
        "test_id": stored.test_id,
        "weights": weights,
        "weights_sha256": stored.weights_sha256,
        "ema": stored.ema,
        "list": stored.list_path,
        "num_videos": stored.num_videos,
        "before": stored.before._asdict(),
        "after": stored.after._asdict(),
        "run_by": provenance(),
    }
    write_json(path, content)


def read_temperature(weights: str, *, weights_sha256: str, ema: bool) -> float:
    """Return the temperature that is stored beside a weights file.

    Args:
        weights: Path of the weights.
        weights_sha256: SHA-256 of the file.
        ema: Whether the EMA weights in it are used, TEST.EMA.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or belongs to other weights.
    """
    content = _read_content(weights)
    path = temperature_path(weights)
    if content.get("weights_sha256") != weights_sha256:
        raise ValueError(
            f"{path}: belongs to other weights than {weights}: their SHA-256 differs. {_REMEDY}"
        )
    if content.get("ema") not in (None, ema):
        raise ValueError(
            f"{path}: was fitted with TEST.EMA {content['ema']}, but TEST.EMA is {ema}. {_REMEDY} "
            "with the same TEST.EMA"
        )
    return float(content["temperature"])


def check_temperature_file(weights: str) -> None:
    """Check that a readable temperature is stored beside a weights file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged.
    """
    _read_content(weights)


def _read_content(weights: str) -> dict[str, Any]:
    path = temperature_path(weights)
    if "://" in weights:
        raise FileNotFoundError(
            f"TEST.CALIBRATED is True, but a temperature is stored beside a file, and the weights "
            f"are an address: {weights}. Download them, and name the file"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"TEST.CALIBRATED is True, but there is no temperature of {weights}: {path} does not "
            f"exist. {_REMEDY}"
        )

    content = read_json(path, remedy=_REMEDY)
    version = content.get("version") if isinstance(content, dict) else None
    if version != _VERSION:
        raise ValueError(f"{path}: has version {version}, and not {_VERSION}. {_REMEDY}")
    temperature = content.get("temperature")
    is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not (is_number and 0 < temperature < math.inf):
        raise ValueError(f"{path}: the temperature is {temperature!r}. {_REMEDY}")
    checked: dict[str, Any] = content
    return checked
