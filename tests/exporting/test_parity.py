"""Parity: differences that are there are found, on clips of real videos and of noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from slowfast.exporting.capture import ExportOptions
from slowfast.exporting.clips import noise_clips, read_clips
from slowfast.exporting.parity import compare
from slowfast.inference.classifier import Classifier
from tests.exporting.conftest import with_model


class Altered:
    """A model whose scores of one clip are altered."""

    def __init__(self, classifier: Classifier, *, clip: int, added: NDArray[Any]) -> None:
        self.classifier, self.clip, self.added, self.num_seen = classifier, clip, added, 0

    def run(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        logits = self.classifier.score(torch.from_numpy(frames))
        if self.num_seen <= self.clip < self.num_seen + len(frames):
            logits[self.clip - self.num_seen] += self.added
        self.num_seen += len(frames)
        return logits


class Softmax(Altered):
    """Such a model that returns probabilities."""

    def run(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        return torch.from_numpy(super().run(frames)).softmax(dim=1).numpy()


class Steep(nn.Module):
    """A model whose logits are far apart."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(frames)
        return 100 * logits


def random_clips(num_clips: int) -> list[torch.Tensor]:
    return list(torch.randn(num_clips, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(("clip", "num_clips"), [(0, 12), (3, 12), (11, 12), (13, 14)])
def test_a_difference_in_one_clip_is_found(
    classifier: Classifier, clip: int, num_clips: int
) -> None:
    clips = random_clips(num_clips)
    last = int(classifier.score(clips[clip].unsqueeze(0)).argmin())
    session = Altered(classifier, clip=clip, added=np.where(np.arange(8) == last, 100, 0))
    parity = compare(classifier, session, ExportOptions(), clips)
    assert parity.max_difference == pytest.approx(100, rel=1e-5)
    assert parity.num_clips == num_clips
    assert parity.num_same_top1 == num_clips - 1
    assert parity.batch_sizes == (1, 3, 8)


def test_the_last_batch_may_be_smaller(classifier: Classifier) -> None:
    session = Altered(classifier, clip=0, added=np.zeros(8))
    parity = compare(classifier, session, ExportOptions(), random_clips(9))
    assert parity.batch_sizes == (1, 3, 5)


def test_probabilities_are_compared_by_their_logarithm(classifier: Classifier) -> None:
    steep = with_model(classifier, Steep(classifier.model))
    clips, options = random_clips(1), ExportOptions(softmax=True)
    equal = Softmax(steep, clip=9, added=np.zeros(8))
    probabilities = equal.run(clips[0][None].numpy())
    least = int(probabilities.argmin())
    assert 1e-20 < probabilities[0, least] < 1e-6
    assert compare(steep, equal, options, clips).max_difference < 1e-3

    # No probability changes by more than 1e-6.
    lower = Softmax(steep, clip=0, added=np.where(np.arange(8) == least, -12, 0))
    assert compare(steep, lower, options, clips).max_difference == pytest.approx(12, abs=1e-3)


def test_scores_that_are_not_numbers_are_no_parity(classifier: Classifier) -> None:
    session = Altered(classifier, clip=2, added=np.full(8, np.nan))
    parity = compare(classifier, session, ExportOptions(), random_clips(12))
    assert np.isnan(parity.max_difference)


def test_clips_are_spread_over_the_videos(
    classifier: Classifier, motion_folder: Path, tmp_path: Path
) -> None:
    videos = sorted(map(str, (motion_folder / "test").iterdir()))
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    reasons: list[str] = []
    clips = list(
        read_clips(
            classifier,
            ExportOptions(uint8=True),
            [videos[0], str(tmp_path / "damaged.mp4"), videos[9]],
            num_clips=7,  # 2, 2 and 3 of a video
            report=reasons.append,
        )
    )
    assert len(reasons) == 1
    assert str(tmp_path / "damaged.mp4") in reasons[0]
    assert len(clips) == 5
    for clip, (video, number, total) in zip(
        clips, [(0, 0, 2), (0, 1, 2), (9, 0, 3), (9, 1, 3), (9, 2, 3)], strict=True
    ):
        views = classifier.reader.read(videos[video], num_clips=total, num_crops=1).frames
        pixels = ((views[number] * 0.225 + 0.45) * 255).round()
        assert clip.dtype == torch.uint8
        assert (clip - pixels).abs().max() <= 1


def test_noise_is_the_same_as_pixels_and_as_floats(classifier: Classifier) -> None:
    settings = classifier.settings
    pixels = torch.stack(list(noise_clips(settings, ExportOptions(uint8=True), num_clips=2)))
    floats = torch.stack(list(noise_clips(settings, ExportOptions(), num_clips=2)))
    assert pixels.shape == (2, 3, 4, 32, 32)
    assert pixels.float().std() > 70  # uniform: 73.9
    assert not torch.equal(pixels[0], pixels[1])
    torch.testing.assert_close(floats, (pixels / 255 - 0.45) / 0.225, rtol=0, atol=1e-6)
