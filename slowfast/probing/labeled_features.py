"""Labeled features: the videos of feature files that a probe is trained, selected or tested on."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from slowfast.inference.feature_files import READ, StoredFeatures

# Entries of the identity in which features must agree.
_SHARED = ("weights_sha256", "TEST.EMA", "stage", "tokens")


@dataclass(frozen=True)
class LabeledFeatures:
    """Features of labeled videos.

    Args:
        features: The stored features.
        videos: Videos to use, as indices among those with features, ascending, shape (M,).
        labels: Label of each of them, shape (M,).
    """

    features: StoredFeatures
    videos: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.videos)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.features.record.class_names)

    @property
    def per_video(self) -> int:
        """Number of features of a video."""
        return self.features.record.features_per_video

    @property
    def positions(self) -> NDArray[np.int64]:
        """Position of each feature among the stored ones, video by video."""
        first = self.videos * self.per_video
        return (first[:, None] + np.arange(self.per_video)).ravel()

    def select(self, videos: NDArray[np.int64]) -> "LabeledFeatures":
        """Return some of the videos, by their indices among these."""
        return replace(self, videos=self.videos[videos], labels=self.labels[videos])

    def left_out(self) -> NDArray[np.int64]:
        """Return the labels of the videos of the list that have no features."""
        table = self.features.index("label", "status")
        labels = table.filter(pc.not_equal(table["status"], READ))["label"]
        found: NDArray[np.int64] = labels.drop_null().to_numpy().astype(np.int64)
        return found


def label_features(features: StoredFeatures) -> LabeledFeatures:
    """Return all videos of stored features.

    Raises:
        ValueError: If there are none, or some have no label.
    """
    if not len(features):
        raise ValueError(f"{features.folder}: no video has features")

    labels = features.labels[:: features.record.features_per_video]
    if (labels < 0).any():
        unlabeled = np.count_nonzero(labels < 0)
        raise ValueError(
            f"{features.folder}: {unlabeled} of {len(labels)} videos have no label, and a probe "
            "needs them. Extract the features of a labeled list"
        )
    return LabeledFeatures(features, np.arange(len(labels)), labels)


def check_same_features(first: StoredFeatures, other: StoredFeatures) -> None:
    """Check that two lists have features of the same model and the same classes.

    Raises:
        ValueError: If they differ.
    """
    here, there = first.record, other.record
    differing = [name for name in _SHARED if here.identity[name] != there.identity[name]]
    if here.class_names != there.class_names:
        differing.append("class_names")
    if here.shape != there.shape:
        differing.append(f"shape {here.shape} and {there.shape}")
    if differing:
        raise ValueError(
            f"{first.folder} and {other.folder}: have features of another kind (other "
            f"{', '.join(differing)}). Extract both with the same command"
        )


def have_same_list(first: StoredFeatures, other: StoredFeatures) -> bool:
    """Return whether the features are of the same videos."""
    name = "paths_sha256"
    return bool(first.record.identity[name] == other.record.identity[name])


def hold_out(
    labeled: LabeledFeatures, *, fraction: float, seed: int
) -> tuple[LabeledFeatures, LabeledFeatures]:
    """Split videos at random, class by class, and return those to train on and the others.

    Each class with two videos or more keeps one and gives one away.

    Args:
        labeled: The videos.
        fraction: Share of the videos of each class to hold out.
        seed: Seed of the split.

    Raises:
        ValueError: If no class has two videos.
    """
    rng = np.random.default_rng(seed)
    is_held_out = np.zeros(len(labeled), bool)
    for label in np.unique(labeled.labels):
        members = rng.permutation(np.flatnonzero(labeled.labels == label))
        number = max(round(fraction * len(members)), 1)
        is_held_out[members[: min(number, len(members) - 1)]] = True

    if not is_held_out.any():
        raise ValueError(
            f"{labeled.features.folder}: no class has two videos, so none can be held out to "
            "select a probe. Name features of a validation list with --val"
        )
    return labeled.select(np.flatnonzero(~is_held_out)), labeled.select(np.flatnonzero(is_held_out))
