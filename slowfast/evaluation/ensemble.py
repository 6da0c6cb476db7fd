"""Ensemble: the score shards of several results of a list, combined into a result of its own."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import simplejson
from numpy.typing import NDArray

from slowfast.datasets.records import NO_LABEL
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import current_job
from slowfast.evaluation.fusion import log_softmax
from slowfast.evaluation.members import COMBINATIONS, MemberScores, read_members
from slowfast.evaluation.predictions import SCORED
from slowfast.evaluation.result import METRICS_NAME, Result, read_metrics, write_result
from slowfast.evaluation.result_record import (
    ResultRecord,
    differences,
    read_record,
    write_record,
)
from slowfast.evaluation.same_list import check_same_list
from slowfast.evaluation.view_scores import ViewScores, join, split
from slowfast.utils.files import remove_unfinished
from slowfast.utils.provenance import provenance
from slowfast.utils.text import count, some

_VIDEOS_PER_RECORD = 256


@dataclass(frozen=True)
class Ensemble:
    """Results of a list with their weights. Make it with `make_ensemble`.

    Args:
        members: The results.
        weights: Weight of each of them. They sum to 1.
        combine: What is averaged, one of `COMBINATIONS`.
    """

    members: tuple[Result, ...]
    weights: tuple[float, ...]
    combine: str

    def make_record(self) -> ResultRecord:
        """Return the record of the result. It depends on what the members and weights are."""
        first = self.members[0].record
        identity = {
            "members": [
                {
                    "test_id": member.record.test_id,
                    "weights_sha256": weights_checksum(member),
                    "weight": weight,
                }
                for member, weight in zip(self.members, self.weights, strict=True)
            ],
            "combine": self.combine,
            "weights_sha256": self._checksum(),
            "paths_sha256": first.identity.get("paths_sha256", ""),
            "labels_sha256": first.identity.get("labels_sha256", ""),
            "class_names": first.class_names,
        }
        return ResultRecord(
            identity=simplejson.loads(simplejson.dumps(identity)),  # as it is read from the record
            class_names=first.class_names,
            num_videos=first.num_videos,
            num_clips=1,
            num_crops=1,
            views_per_forward=_VIDEOS_PER_RECORD,
            weights=" + ".join(member.record.weights for member in self.members),
            list_path=first.list_path,
            is_labeled=first.is_labeled,
        )

    def _checksum(self) -> str:
        """Return a checksum in the place of that of a weights file, the same on every list."""
        checksums = [weights_checksum(member) for member in self.members]
        text = simplejson.dumps([self.combine, checksums, self.weights])
        return hashlib.sha256(text.encode()).hexdigest()


def make_ensemble(
    members: Sequence[Result], *, weights: Sequence[float], combine: str = "logits"
) -> Ensemble:
    """Return an ensemble of results of the same list and classes.

    Args:
        members: The results, at least one.
        weights: Weight of each member, see `normalize_weights`.
        combine: What is averaged, first over the views and then over the members: "logits" or
            "probabilities".

    Raises:
        ValueError: If the members are of different lists or classes, the weights are no weights of
            them, or the combination is unknown.
    """
    if combine not in COMBINATIONS:
        raise ValueError(f"cannot combine {combine!r}. Choose one of: {', '.join(COMBINATIONS)}")
    normalized = normalize_weights(weights, num_members=len(members))
    check_same_list(members)
    return Ensemble(tuple(members), normalized, combine)


def normalize_weights(weights: Sequence[float], *, num_members: int) -> tuple[float, ...]:
    """Return weights with the sum 1.

    Args:
        weights: Weights of the members: 0 or more, not all 0.
        num_members: Number of members.

    Raises:
        ValueError: If their number is another one, or one of them is negative or not finite, or all
            are 0.
    """
    text = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != num_members:
        raise ValueError(
            f"cannot use {count(len(weights), 'weight')} ({text}) for "
            f"{count(num_members, 'result')}. Give one weight per result"
        )
    total = sum(weights)
    if not (min(weights) >= 0 and 0 < total < math.inf):
        raise ValueError(f"the weights are {text}. Use numbers of 0 or more, not all 0")
    return tuple(weight / total for weight in weights)


def weights_checksum(result: Result) -> str:
    """Return the SHA-256 of the weights of a result.

    Raises:
        ValueError: If its record does not have it.
    """
    checksum = result.record.identity.get("weights_sha256")
    if not isinstance(checksum, str):
        raise ValueError(
            f"{result.folder}: its record lacks the SHA-256 of the weights. Test again"
        )
    return checksum


def write_ensemble(ensemble: Ensemble, folder: Path) -> bool:
    """Write the result of an ensemble, unless the folder holds it already.

    The result has one view per video: the combined logits, or the logarithms of the combined
    probabilities. If this call is killed, the next one continues. A video that a member did not
    score has no scores, and its reason names the member.

    Args:
        ensemble: The ensemble.
        folder: Folder of the result. It is missing, empty, or holds the same ensemble.

    Returns:
        Whether it was written. False if it was finished before.

    Raises:
        FileExistsError: If the folder holds anything else.
        FolderLockedError: If another process writes to it.
        ShardError: If a shard of a member is damaged.
        ValueError: If no video was scored by all members.
        OSError: If a file cannot be written.
    """
    folder = folder.resolve()
    record = ensemble.make_record()
    lock = FolderLock(
        folder.with_name(f"{folder.name}.lock"),
        purpose="ensemble",
        job=current_job(),
        command=provenance()["command"],
        remedy="use another folder",
    )
    with lock:
        _check_folder(folder, record)
        if _is_finished(ensemble, folder):
            return False
        write_record(folder, record)
        _write_shard(ensemble, folder, record)

        videos = ensemble.members[0].predictions("path", "label")
        write_result(
            folder,
            record,
            names=videos["path"],
            labels=pc.fill_null(videos["label"], NO_LABEL).to_numpy(),
            fusion="sum",
            facts=_facts(ensemble, record),
        )
        return True


def _check_folder(folder: Path, record: ResultRecord) -> None:
    """Refuse a folder with anything but an earlier start of the same ensemble."""
    if not folder.exists():
        return
    remove_unfinished(folder)
    if not os.listdir(folder):
        return

    try:
        changed = differences(record, read_record(folder))
    except FileNotFoundError:
        raise FileExistsError(f"{folder}: is not empty. Choose another folder") from None
    if changed:
        raise FileExistsError(
            f"{folder}: holds another result (other {some(changed)}). Choose another folder"
        )


def _is_finished(ensemble: Ensemble, folder: Path) -> bool:
    """Return whether the result has the scores of all videos that all members scored.

    A test that is repeated may have scored a video that was unreadable before.
    """
    if not (folder / METRICS_NAME).exists():
        return False
    statuses = [member.predictions("status")["status"] for member in ensemble.members]
    is_scored = [pc.equal(status, SCORED).to_numpy() for status in statuses]
    num_scored = int(np.logical_and.reduce(is_scored).sum())
    return bool(read_metrics(folder)["num_scored"] == num_scored)


def _write_shard(ensemble: Ensemble, folder: Path, record: ResultRecord) -> None:
    """Write the scores that the folder lacks."""
    shards = record.shards(folder)
    missing = set(shards.recover().tolist())
    videos_per_group = shards.groups.videos_per_group
    members = read_members(ensemble.members, combine=ensemble.combine)
    combined = (_combine(scores, ensemble) for scores in members)

    with shards.writer(start=shards.next_start(), rank=0) as writer:
        for group, scores in enumerate(_in_groups(combined, videos_per_group)):
            if group in missing:
                writer.write(scores)


def _combine(members: MemberScores, ensemble: Ensemble) -> ViewScores:
    num_classes = members.scores.shape[2]
    combined = combine_scores(members.scores, ensemble.weights, combine=ensemble.combine)
    bounds = np.finfo(np.float32)  # a logarithm of a probability may be outside of it

    logits = np.full((len(members.videos), 1, num_classes), np.nan, np.float32)
    logits[members.is_scored, 0] = combined.clip(bounds.min, bounds.max)
    return ViewScores(members.videos, logits, members.unscored)


def combine_scores(
    scores: NDArray[np.float64], weights: Sequence[float], *, combine: str
) -> NDArray[np.float64]:
    """Return the weighted mean of logits, or the logarithm of that of probabilities.

    The members are added in their order, and the result of a video does not depend on the others.

    Args:
        scores: Logits or log-probabilities of shape (M, N, K).
        weights: Weights of the members, with the sum 1.
        combine: What the scores are, one of `COMBINATIONS`.

    Returns:
        Logits or normalized log-probabilities of shape (N, K).
    """
    used = [(weight, values) for weight, values in zip(weights, scores, strict=True) if weight]
    if combine == "logits":
        total = np.zeros(scores.shape[1:])
        for weight, values in used:
            total += weight * values
        return total

    log_total = np.full(scores.shape[1:], -np.inf)
    for weight, values in used:
        log_total = np.logaddexp(log_total, values + math.log(weight))
    return log_softmax(log_total)


def _in_groups(blocks: Iterator[ViewScores], size: int) -> Iterator[ViewScores]:
    """Cut consecutive records into records of a fixed number of videos. The last one is shorter."""
    waiting: ViewScores | None = None
    for block in blocks:
        waiting = block if waiting is None else join([waiting, block])
        while len(waiting.videos) >= size:
            group, waiting = split(waiting, size)
            yield group
    if waiting is not None and len(waiting.videos):
        yield waiting


def _facts(ensemble: Ensemble, record: ResultRecord) -> dict[str, Any]:
    """Return the entries of `metrics.json` that only an ensemble has."""
    members = [
        {
            "folder": str(member.folder),
            "weights": member.record.weights,
            "weights_sha256": weights_checksum(member),
            "test_id": member.record.test_id,
            "weight": weight,
            "top1": member.metrics.get("top1"),
        }
        for member, weight in zip(ensemble.members, ensemble.weights, strict=True)
    ]
    return {
        "weights_sha256": record.identity["weights_sha256"],
        "combine": ensemble.combine,
        "members": members,
    }
