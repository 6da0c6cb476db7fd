"""Exports of models of the published size, and of baselines, agree with eager."""

from pathlib import Path

import pytest
import torch

from slowfast.config import load_cfg
from slowfast.datasets.build import build_normalize
from slowfast.datasets.build_clips import build_clip_reader
from slowfast.exporting.capture import ExportOptions
from slowfast.exporting.clips import read_clips
from slowfast.exporting.formats import FORMATS, export_model
from slowfast.exporting.parity import Parity, compare
from slowfast.inference.classifier import Classifier
from slowfast.inference.clip_settings import build_clip_settings
from slowfast.inference.view_reader import ViewReader
from slowfast.models.build import build_model
from slowfast.models.uniformer_config import UNIFORMERS
from tests.models.test_uniformer import golden_state

ROOT = Path(__file__).parents[2]
BASELINES = ("r2plus1d_18", "swin3d_t")
SMALL = ("DATA.TEST_CROP_SIZE", "112")

pytestmark = pytest.mark.soak


def random_classifier(recipe: str, *overrides: str) -> Classifier:
    """The classifier of a recipe with fixed weights."""
    cfg = load_cfg(str(ROOT / recipe), overrides)
    torch.manual_seed(0)
    model = build_model(cfg)
    if cfg.MODEL.MODEL_NAME in UNIFORMERS:
        model.load_state_dict(golden_state(model))
    settings = build_clip_settings(cfg)
    return Classifier(
        model,
        ViewReader(build_clip_reader(cfg, "test"), settings),
        build_normalize(cfg),
        class_names=[f"class {row}" for row in range(cfg.MODEL.NUM_CLASSES)],
        settings=settings,
    )


def parity_of(
    classifier: Classifier,
    file_format: str,
    options: ExportOptions,
    *,
    videos: list[str],
    num_clips: int,
    extra: int = 0,
) -> Parity:
    session = FORMATS[file_format].open(export_model(classifier, file_format, options))
    clips = read_clips(
        classifier, options, videos, num_clips=num_clips, report=pytest.fail, extra=extra
    )
    return compare(classifier, session, options, clips)


@pytest.fixture
def videos(motion_folder: Path) -> list[str]:
    return sorted(map(str, (motion_folder / "test").iterdir()))


@pytest.mark.parametrize(
    ("experiment", "file_format", "num_clips", "overrides"),
    [
        ("uniformer_s8x8_k400", "onnx", 50, ()),
        ("uniformer_s8x8_k400", "pt2", 12, SMALL),
        ("uniformer_b8x8_k400", "pt2", 12, SMALL),
        ("uniformer_xxs8_160_k400", "onnx", 50, ()),
        ("uniformer_xxs8_128_k400", "pt2", 50, ()),
    ],
)
def test_published_models_agree_with_eager(
    experiment: str,
    file_format: str,
    num_clips: int,
    overrides: tuple[str, ...],
    videos: list[str],
) -> None:
    torch.set_num_threads(2)
    classifier = random_classifier(f"exp/{experiment}/config.yaml", *overrides)
    options = ExportOptions()
    parity = parity_of(classifier, file_format, options, videos=videos, num_clips=num_clips)
    assert parity.max_difference < 1e-4
    assert parity.num_same_top1 == parity.num_clips == num_clips
    assert parity.batch_sizes[:1] + parity.batch_sizes[-2:] == (1, 3, 8)


@pytest.mark.parametrize("options", [(True, True, True), (False, False, True)])
def test_a_quickstart_agrees_at_any_size(options: tuple[bool, ...], videos: list[str]) -> None:
    classifier = random_classifier("exp/quickstart/config.yaml")
    chosen = ExportOptions(*options)
    for extra in (0, 32):
        parity = parity_of(classifier, "onnx", chosen, videos=videos, num_clips=50, extra=extra)
        assert parity.max_difference < 1e-4
        assert parity.num_same_top1 == 50


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_agree_with_eager(name: str, videos: list[str]) -> None:
    torch.set_num_threads(2)
    classifier = random_classifier(f"configs/models/{name}.yaml", *SMALL, "DATA.NUM_FRAMES", "8")
    parity = parity_of(classifier, "onnx", ExportOptions(), videos=videos, num_clips=12)
    assert parity.max_difference < 1e-4
    assert parity.batch_sizes == (1, 3, 8)
