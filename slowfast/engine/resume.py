"""Start of a training: resuming the run in OUTPUT_DIR, refusing it, or setting it aside."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import VideoLoader, build_known_class_names, build_loader
from slowfast.distributed.collectives import from_main, is_main, world_size
from slowfast.distributed.job import current_job
from slowfast.distributed.job_lock import locked
from slowfast.engine.build import build_state
from slowfast.engine.choose_weights import choose_start_weights
from slowfast.engine.identity import build_identity, differences
from slowfast.engine.run_folder import holds_outputs, outputs_in, set_aside
from slowfast.engine.state import TrainingState, check_state
from slowfast.engine.validations import read_validations
from slowfast.models.freezing import frozen_parameters
from slowfast.models.weights import load_weights
from slowfast.runs.run_checkpoints import load_newest, own_checkpoints, resumable_checkpoints
from slowfast.runs.run_record import RunRecord, find_run, new_run_id, write_record
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import list_checkpoints
from slowfast.utils.checksum import sha256_of
from slowfast.utils.files import write_file
from slowfast.utils.paths import pathmgr
from slowfast.utils.progress import log_to_file
from slowfast.utils.provenance import provenance
from slowfast.utils.text import count, some

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundRun:
    """The run that OUTPUT_DIR holds, as far as a training may resume it."""

    record: RunRecord | None = None
    state: dict[str, Any] | None = None  # content of its newest checkpoint
    path: Path | None = None  # that checkpoint

    @property
    def identity(self) -> dict[str, Any]:
        """Identity in the checkpoint. It is empty without one."""
        return self.state["identity"] if self.state else {}


class StartWeightsFile(NamedTuple):
    """The file of weights that a run starts from."""

    name: str  # as the config names it, empty for random weights
    path: str  # local path or address, empty for random weights
    sha256: str  # empty for random weights


NO_WEIGHTS = StartWeightsFile(name="", path="", sha256="")


def start_run(cfg: CfgNode) -> tuple[TrainingState, VideoLoader, bool]:
    """Resume the run in OUTPUT_DIR, or start a new one there.

    Afterward the log and config.yaml in OUTPUT_DIR belong to this run. The outputs of another run
    are refused or set aside.

    Returns:
        The training state, the training loader, and whether the run is resumed.

    Raises:
        FileNotFoundError: If a list or the weights to start from are missing.
        ValueError: If a list, the weights or the checkpoint do not fit the config, or OUTPUT_DIR
            holds another run.
    """
    found = _find_in_folder(cfg.OUTPUT_DIR, auto_resume=cfg.TRAIN.AUTO_RESUME)
    num_micro_batches = cfg.SOLVER.ACCUM_STEPS or _micro_batches_per_process(found.state)
    loader = build_loader(cfg, "train", micro_batches_per_step=num_micro_batches)
    weights = NO_WEIGHTS
    identity: dict[str, Any] = {}
    if is_main():
        annotations = loader.dataset.annotations
        weights, identity = _build_weights_and_identity(cfg, annotations, found)
    weights, identity = from_main((weights, identity))

    changes = differences(identity, found.identity)
    if changes and not cfg.TRAIN.RESUME_WITH_CHANGES:
        raise ValueError(_describe_other_run(cfg.OUTPUT_DIR, found, changes))
    run_id = ""
    if is_main():
        run_id = _take_folder(cfg.OUTPUT_DIR, found, identity=identity, weights=weights)
        write_file(Path(cfg.OUTPUT_DIR, "config.yaml"), cfg.dump())
    if changes:
        lines = [f"resuming from {found.path} with changes:", *changes]
        logger.warning("%s", "\n    ".join(lines))

    state = build_state(
        cfg,
        num_micro_batches=num_micro_batches * world_size(),
        run_id=from_main(run_id),
        identity=identity,
    )
    state.steps_per_epoch = loader.num_steps
    if found.state is not None:
        _resume(cfg.OUTPUT_DIR, state, found, num_epochs=cfg.SOLVER.MAX_EPOCH)
        if weights.path:
            logger.info("the start weights of the run, %s, are not loaded again", weights.path)
        return state, loader, True

    loaded: Collection[str] = ()
    if weights.path:
        report = load_weights(
            state.model,
            weights.path,
            may_replace_head=True,
            allowed=cfg.MODEL.ALLOWED_MISMATCH,
            class_names=build_known_class_names(cfg),
        )
        loaded = report.loaded
        if state.ema is not None:
            state.ema.reset(state.model)
    _warn_of_random_frozen(state, loaded)
    return state, loader, False


def _warn_of_random_frozen(state: TrainingState, loaded: Collection[str]) -> None:
    names = [name for name in frozen_parameters(state.model) if name not in loaded]
    if names:
        logger.warning(
            "MODEL.FREEZE keeps %s at random values, because no start weights were loaded for "
            "them: %s. Set TRAIN.CHECKPOINT_FILE_PATH, or do not freeze them",
            count(len(names), "parameter"),
            some(names),
        )


def _find_in_folder(output_dir: str, *, auto_resume: bool) -> FoundRun:
    """Return what the main process finds in OUTPUT_DIR, in every process."""
    found = FoundRun()
    if is_main():
        record = find_run(output_dir, auto_resume=auto_resume)
        if record is not None:
            found = _load_newest(output_dir, record)

    record, path = from_main((found.record, found.path))
    if is_main() or path is None:
        return FoundRun(record, found.state, path)
    return FoundRun(record, load_checkpoint(path), path)


def _load_newest(output_dir: str, record: RunRecord) -> FoundRun:
    num_others = len(list_checkpoints(output_dir)) - len(own_checkpoints(output_dir, record.run_id))
    if num_others:
        others = count(num_others, "checkpoint")
        logger.warning("%s/checkpoints: ignoring %s of other runs", output_dir, others)

    newest = load_newest(resumable_checkpoints(output_dir, record.run_id))
    if newest is None:
        return FoundRun(record)
    state, path = newest
    check_state(state, path=str(path))
    return FoundRun(record, state, path)


def _micro_batches_per_process(state: dict[str, Any] | None) -> int:
    """Return a number with which a resumed run keeps its micro-batches. It is 1 for a new run."""
    if state is None:
        return 1
    num_micro_batches = state["num_micro_batches"]
    if num_micro_batches % world_size():
        logger.warning(
            "%s cannot share the %s of each step of this run. BatchNorm will see other batches "
            "than before, while the gradient of a step stays the same",
            count(world_size(), "process"),
            count(num_micro_batches, "micro-batch"),
        )
        return 1
    return num_micro_batches // world_size()


def _build_weights_and_identity(
    cfg: CfgNode, annotations: Annotations, found: FoundRun
) -> tuple[StartWeightsFile, dict[str, Any]]:
    """Return the weights to start from and the identity of the run.

    The weights of a run that is resumed may be missing, since they are not loaded again.
    """
    weights = choose_start_weights(
        cfg.TRAIN.CHECKPOINT_FILE_PATH,
        pretrain_name=cfg.UNIFORMER.PRETRAIN_NAME,
        model_name=cfg.MODEL.MODEL_NAME,
    )
    try:
        path = weights.find_file(folder=cfg.MODEL.WEIGHTS_DIR, may_download=found.state is None)
        sha256 = sha256_of(pathmgr.get_local_path(path)) if path else ""
    except OSError as error:
        path, sha256 = "", found.identity.get("start_weights_sha256", "")
        starts = found.record.starts if found.record else []
        names = {start.get("start_weights") for start in starts}
        if not sha256 or (names and weights.name not in names):
            raise
        logger.info(
            "the start weights of this run are missing, but resuming does not need them (%s)", error
        )
    identity = build_identity(cfg, annotations, start_weights=sha256)
    return StartWeightsFile(weights.name, path, sha256), identity


def _take_folder(
    output_dir: str, found: FoundRun, *, identity: dict[str, Any], weights: StartWeightsFile
) -> str:
    """Make OUTPUT_DIR the directory of this run, and return the ID of the run."""
    record = found.record
    if record and not found.state and differences(identity, record.identity):
        record = None  # Another run, which stopped before it saved anything.
    if record is None and holds_outputs(output_dir):
        _refuse_own_weights(weights.path, output_dir)
        # A running test would write its result into the directory of the new run.
        with locked(output_dir, purpose="test"):
            folder = set_aside(output_dir)
        logger.warning("%s holds another run, which is set aside: %s", output_dir, folder)

    run_id = record.run_id if record else new_run_id()
    starts = record.starts if record else []
    start = {**provenance(), "start_weights": weights.name}
    job = current_job()._asdict()
    write_record(output_dir, RunRecord(run_id, identity, [*starts, start], job=job))
    log_to_file(Path(output_dir, "stdout.log"))
    return run_id


def _refuse_own_weights(weights: str, output_dir: str) -> None:
    """Raise an error if the start weights are an output of the run that would be set aside."""
    path = Path(weights).resolve()
    outputs = [output.resolve() for output in outputs_in(output_dir)]
    if weights and any(path.is_relative_to(output) for output in outputs):
        raise ValueError(
            f"{weights} belongs to the run in {output_dir}, which would be set aside for a new run "
            "that starts from it. Use another OUTPUT_DIR"
        )


def _resume(output_dir: str, state: TrainingState, found: FoundRun, *, num_epochs: int) -> None:
    assert found.state is not None
    state.load_state_dict(found.state, path=str(found.path))

    later: list[dict[str, Any]] = []
    if is_main():
        later = read_validations(output_dir, state.run_id, max_epoch=state.epoch)
    known = {record["epoch"] for record in state.validations}
    state.validations += [record for record in from_main(later) if record["epoch"] not in known]

    if state.epoch >= num_epochs:
        logger.info(
            "the run in %s is finished: it has %s, and SOLVER.MAX_EPOCH is %d",
            output_dir,
            count(state.epoch, "epoch"),
            num_epochs,
        )
    else:
        logger.info("resuming at %s, from %s", state.position, found.path)


def _describe_other_run(output_dir: str, found: FoundRun, changes: list[str]) -> str:
    lines = [
        f"{output_dir} holds another run (newest checkpoint: {found.path}). It differs in:",
        *changes,
        "Use the same settings to resume it, TRAIN.RESUME_WITH_CHANGES True to resume it with the "
        "new ones, another OUTPUT_DIR for a new run, or TRAIN.AUTO_RESUME False to set it aside",
    ]
    return "\n    ".join(lines)
