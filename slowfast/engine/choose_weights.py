"""Weights of a run: the file a training starts from and the file a test evaluates."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slowfast.evaluation.stored_temperature import check_temperature_file
from slowfast.models.uniformer_config import UNIFORMERS
from slowfast.models.zoo import find_weights
from slowfast.runs.run_checkpoints import checkpoint_to_test, is_resumable
from slowfast.utils.checkpoint_files import BEST_NAME
from slowfast.utils.command_names import command_name

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


class StartWeights(NamedTuple):
    """Weights a training starts from, as the config names them."""

    name: str  # Path, address or published name. Empty for random weights.
    key: str  # Config key that holds the name, for messages.

    def find_file(self, *, folder: str, may_download: bool = True) -> str:
        """Return the path or address of the file, empty for random weights.

        Args:
            folder: MODEL.WEIGHTS_DIR, the folder with published files.
            may_download: Whether to download a file from the Hugging Face Hub.

        Raises:
            FileNotFoundError: If the file does not exist.
            OSError: If its server does not answer.
            ValueError: If it is not a file, or not the published one.
        """
        if not self.name:
            return ""
        return find_weights(self.name, key=self.key, folder=folder, may_download=may_download)


def choose_start_weights(
    checkpoint_path: str, *, pretrain_name: str, model_name: str
) -> StartWeights:
    """Return the weights a training starts from.

    Args:
        checkpoint_path: TRAIN.CHECKPOINT_FILE_PATH, which takes precedence.
        pretrain_name: UNIFORMER.PRETRAIN_NAME, which other models ignore.
        model_name: MODEL.MODEL_NAME.
    """
    if checkpoint_path or model_name not in UNIFORMERS:
        return StartWeights(checkpoint_path, "TRAIN.CHECKPOINT_FILE_PATH")
    return StartWeights(pretrain_name, "UNIFORMER.PRETRAIN_NAME")


def find_test_weights(checkpoint_path: str, *, folder: str, output_dir: str, best: bool) -> str:
    """Return the path or address of the weights to test.

    Random weights are never tested.

    Args:
        checkpoint_path: TEST.CHECKPOINT_FILE_PATH. Empty to test a checkpoint of the run.
        folder: MODEL.WEIGHTS_DIR, the folder with published files.
        output_dir: Folder of the run.
        best: TEST.TEST_BEST, whether to take best.pyth instead of the newest checkpoint.

    Raises:
        FileNotFoundError: If the file or the checkpoint does not exist.
        OSError: If the server of the file does not answer.
        ValueError: If the file is not the published one, or best.pyth belongs to another run.
    """
    if checkpoint_path:
        return find_weights(checkpoint_path, key="TEST.CHECKPOINT_FILE_PATH", folder=folder)
    return str(checkpoint_to_test(output_dir, best=best))


def find_problems(cfg: "CfgNode") -> list[str]:
    """Return one sentence for each file of weights that the run needs and cannot use.

    A file that only the Hugging Face Hub has is downloaded here, once per machine, before the
    processes of a job start. They find it in the cache.
    """
    problems = []

    if cfg.TRAIN.ENABLE and not is_resumable(cfg.OUTPUT_DIR, auto_resume=cfg.TRAIN.AUTO_RESUME):
        weights = choose_start_weights(
            cfg.TRAIN.CHECKPOINT_FILE_PATH,
            pretrain_name=cfg.UNIFORMER.PRETRAIN_NAME,
            model_name=cfg.MODEL.MODEL_NAME,
        )
        try:
            weights.find_file(folder=cfg.MODEL.WEIGHTS_DIR)
        except (OSError, ValueError) as error:
            problems.append(str(error))

    checkpoint = cfg.TEST.CHECKPOINT_FILE_PATH
    is_written_first = cfg.TRAIN.ENABLE and _belongs_to_run(checkpoint, cfg.OUTPUT_DIR)
    if cfg.TEST.ENABLE and cfg.TEST.CALIBRATED and is_written_first:
        problems.append(
            "TEST.CALIBRATED is True, but the training writes the weights to test, and they have "
            "no temperature yet. Set it to False, or TRAIN.ENABLE to False after "
            + command_name("calibrate")
        )
    if cfg.TEST.ENABLE and not is_written_first:
        try:
            tested = find_test_weights(
                checkpoint,
                folder=cfg.MODEL.WEIGHTS_DIR,
                output_dir=cfg.OUTPUT_DIR,
                best=cfg.TEST.TEST_BEST,
            )
            if cfg.TEST.CALIBRATED:
                check_temperature_file(tested)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return problems


def _belongs_to_run(checkpoint_path: str, output_dir: str) -> bool:
    """Return whether a training in `output_dir` writes the checkpoint."""
    if not checkpoint_path:
        return True
    path, folder = Path(checkpoint_path).resolve(), Path(output_dir).resolve()
    return path == folder / BEST_NAME or path.parent == folder / "checkpoints"
