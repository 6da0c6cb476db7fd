"""Fixtures of the tests of exports: a small classifier, and its files in both formats."""

from pathlib import Path

import pytest
from torch import nn

from slowfast.config import load_cfg
from slowfast.datasets.build import build_known_class_names
from slowfast.datasets.normalization import Normalize
from slowfast.exporting.capture import ExportOptions
from slowfast.exporting.formats import CAN_EXPORT, export_model
from slowfast.inference.classifier import Classifier
from slowfast.models.build import build_model
from slowfast.trained import load
from slowfast.utils.checkpoint import save_checkpoint
from tests.conftest import QUICKSTART
from tests.models.test_uniformer import golden_state

PIXELS = ExportOptions(uint8=True, softmax=True)


@pytest.fixture(autouse=True, scope="session")
def _torch_can_export() -> None:
    if not CAN_EXPORT:
        pytest.skip("torch 2.6 cannot export these models")


def with_model(classifier: Classifier, model: nn.Module) -> Classifier:
    """A classifier with another model and the same clips."""
    settings = classifier.settings
    return Classifier(
        model,
        classifier.reader,
        Normalize(mean=settings.mean, std=settings.std, erase_mode="pixel"),
        class_names=classifier.class_names,
        settings=settings,
    )


@pytest.fixture(scope="session")
def weights(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small model whose logits differ from clip to clip."""
    settings = {
        "DATA.CLASS_NAMES": motion_folder / "classes.txt",
        "DATA.NUM_FRAMES": 4,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "UNIFORMER.EMBED_DIM": "[8,8,16,16]",
        "UNIFORMER.DEPTH": "[1,0,1,0]",
        "UNIFORMER.HEAD_DIM": 8,
    }
    cfg = load_cfg(str(QUICKSTART), [str(word) for pair in settings.items() for word in pair])
    path = tmp_path_factory.mktemp("weights") / "left_or_right.pyth"
    content = {
        "model_state": golden_state(build_model(cfg)),
        "class_names": build_known_class_names(cfg),
        "cfg": cfg.dump(),
    }
    save_checkpoint(path, content)
    return path


@pytest.fixture(scope="session")
def classifier(weights: Path) -> Classifier:
    return load(weights)


@pytest.fixture(scope="session")
def onnx_file(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that takes pixels to probabilities."""
    path = tmp_path_factory.mktemp("exported") / "left_or_right.onnx"
    path.write_bytes(export_model(classifier, "onnx", PIXELS))
    return path


@pytest.fixture(scope="session")
def pt2_file(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pt2 file that takes normalized frames of any size to logits."""
    path = tmp_path_factory.mktemp("exported") / "left_or_right.pt2"
    path.write_bytes(export_model(classifier, "pt2", ExportOptions(any_size=True)))
    return path
