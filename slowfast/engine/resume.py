"""How a training begins: which run its folder holds, whether that is resumed, and what is set aside."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from slowfast.datasets.build import VideoLoader, build_loader, known_class_names
from slowfast.distributed.collectives import from_main, is_main, world_size
from slowfast.distributed.job import current_job
from slowfast.engine.build import build_state
from slowfast.engine.checkpoints import Validations
from slowfast.engine.identity import START_WEIGHTS, differences, identity_of
from slowfast.engine.run_folder import (
    RunRecord,
    find_run,
    holds_outputs,
    load_newest,
    locked,
    new_run_id,
    outputs_in,
    own_checkpoints,
    resumable_checkpoints,
    set_aside,
    write_record,
)
from slowfast.engine.state import TrainingState, check_state
from slowfast.models.weights import load_weights
from slowfast.models.zoo import name_of_start_weights, weights_to_start
from slowfast.utils.checkpoint import checkpoints_of, load_checkpoint
from slowfast.utils.checksum import sha256_of
from slowfast.utils.files import write_file
from slowfast.utils.paths import pathmgr
from slowfast.utils.progress import log_to_file
from slowfast.utils.provenance import provenance
from slowfast.utils.text import count

logger = logging.getLogger(__name__)


class Found(NamedTuple):
    """What the folder of a new start holds."""

    record: RunRecord | None  # of a run that may be resumed
    state: dict[str, Any] | None  # the content of its newest whole checkpoint
    path: Path | None  # that checkpoint


def start_run(cfg: CfgNode) -> tuple[TrainingState, VideoLoader, bool]:
    """Return the run to train, resumed or at its beginning, its loader, and whether it is resumed.

    The log file and config.yaml of OUTPUT_DIR belong to this run afterwards; what another one has written there is
    refused, or set aside.

    Raises:
        FileNotFoundError: A list or the weights to start from are missing.
        ValueError: A list, the weights or the checkpoint do not fit the config, or the folder holds another run.
    """
    found = _find(cfg)
    num_parts = _parts_per_step(cfg, found.state or {})
    loader = build_loader(cfg, "train", parts_per_step=num_parts)
    weights, identity = from_main(_identify(cfg, loader, found) if is_main() else ("", {}))

    changes = differences(identity, found.state["identity"] if found.state else {})
    if changes and not cfg.TRAIN.RESUME_WITH_CHANGES:
        raise ValueError(_describe_other_run(cfg.OUTPUT_DIR, found, changes))
    run_id = from_main(
        _take_folder(cfg, found, identity=identity, weights=weights) if is_main() else ""
    )
    if changes:
        logger.warning("%s", "\n    ".join([f"resuming from {found.path} with changes:", *changes]))

    run = build_state(cfg, identity=identity, num_parts=num_parts * world_size())
    run.run_id = run_id
    if found.state is not None:
        _resume(cfg, run, found, weights=weights)
    elif weights:
        load_weights(
            run.model,
            weights,
            may_replace_head=True,
            allowed=cfg.MODEL.ALLOWED_MISMATCH,
            class_names=known_class_names(cfg),
        )
        if run.ema is not None:
            run.ema.begin_at(run.model)
    return run, loader, found.state is not None


def _find(cfg: CfgNode) -> Found:
    """What the main process finds in OUTPUT_DIR, in every process."""
    record, path, state = None, None, None
    if is_main():
        record = find_run(cfg.OUTPUT_DIR, auto_resume=cfg.TRAIN.AUTO_RESUME)
        newest = (
            load_newest(resumable_checkpoints(cfg.OUTPUT_DIR, record.run_id)) if record else None
        )
        state, path = newest or (None, None)
        if state is not None:
            check_state(state, path=str(path))
        others = (
            len(checkpoints_of(cfg.OUTPUT_DIR))
            - len(own_checkpoints(cfg.OUTPUT_DIR, record.run_id))
            if record
            else 0
        )
        if others:
            logger.warning(
                "%s/checkpoints: %s of other runs, left alone",
                cfg.OUTPUT_DIR,
                count(others, "checkpoint"),
            )
    record, path = from_main((record, path))
    if path is not None and state is None:
        state = load_checkpoint(path)
    return Found(record, state, path)


def _identify(cfg: CfgNode, loader: VideoLoader, found: Found) -> tuple[str, dict[str, Any]]:
    """The file of weights that the run starts from, "" for none, and the identity of the run."""
    known = (found.state or {}).get("identity", {})
    try:
        weights = weights_to_start(cfg)
        checksum = sha256_of(pathmgr.get_local_path(weights)) if weights else ""
    except OSError as error:
        names = (
            {start.get("start_weights") for start in found.record.starts} if found.record else set()
        )
        is_of_run = known.get(START_WEIGHTS) and (not names or name_of_start_weights(cfg) in names)
        if not is_of_run:
            raise
        logger.info(
            "the weights that this run started from are not there, and not needed to resume it (%s)",
            error,
        )
        weights, checksum = "", known[START_WEIGHTS]
    return weights, identity_of(cfg, loader.dataset.annotations, start_weights=checksum)


def _take_folder(cfg: CfgNode, found: Found, *, identity: dict[str, Any], weights: str) -> str:
    """Make OUTPUT_DIR the folder of this run; return the id of the run."""
    record = found.record
    if record and not found.state and differences(identity, record.identity):
        record = None  # of a run that was stopped before it saved anything
    if record is None and holds_outputs(cfg.OUTPUT_DIR):
        _refuse_to_move(weights, cfg.OUTPUT_DIR)
        with locked(
            cfg.OUTPUT_DIR, purpose="test"
        ):  # one that runs would write its result into the new run's folder
            folder = set_aside(cfg.OUTPUT_DIR)
        logger.warning("%s holds another run, which is set aside: %s", cfg.OUTPUT_DIR, folder)

    run_id = record.run_id if record else new_run_id()
    start = {**provenance(), "start_weights": name_of_start_weights(cfg)}
    starts = [*(record.starts if record else []), start]
    write_record(cfg.OUTPUT_DIR, RunRecord(run_id, identity, starts, job=current_job()._asdict()))
    log_to_file(cfg.OUTPUT_DIR)
    write_file(Path(cfg.OUTPUT_DIR, "config.yaml"), cfg.dump())
    return run_id


def _refuse_to_move(weights: str, output_dir: str) -> None:
    """Raise an error if the weights to start from are a file of the run that would be set aside."""
    path = Path(weights).resolve()
    if weights and any(path.is_relative_to(output.resolve()) for output in outputs_in(output_dir)):
        raise ValueError(
            f"{weights} is a file of the run in {output_dir}, which would be set aside for a new run that starts from "
            "it; use another OUTPUT_DIR"
        )


def _resume(cfg: CfgNode, run: TrainingState, found: Found, *, weights: str) -> None:
    assert found.state is not None
    run.load(found.state, path=str(found.path))
    later = Validations.read(cfg.OUTPUT_DIR, run.run_id, max_epoch=run.epoch) if is_main() else []
    known = {record["epoch"] for record in run.validations}
    run.validations += [record for record in from_main(later) if record["epoch"] not in known]

    if run.epoch >= cfg.SOLVER.MAX_EPOCH:
        logger.info(
            "the run in %s is finished: it has %s, and SOLVER.MAX_EPOCH is %d",
            *(cfg.OUTPUT_DIR, count(run.epoch, "epoch"), cfg.SOLVER.MAX_EPOCH),
        )
    else:
        logger.info("resuming at %s, from %s", run.place, found.path)
    if weights:
        logger.info("the weights in %s, which the run started from, are not loaded again", weights)


def _describe_other_run(output_dir: str, found: Found, changes: list[str]) -> str:
    return "\n    ".join(
        [
            f"{output_dir} holds another run (newest checkpoint: {found.path}). It differs in:",
            *changes,
            "use the same settings to resume it, TRAIN.RESUME_WITH_CHANGES True to resume it with the new ones, "
            "another OUTPUT_DIR for a new run, or TRAIN.AUTO_RESUME False to set the old run aside",
        ]
    )


def _parts_per_step(cfg: CfgNode, state: dict[str, Any]) -> int:
    """Parts of a process's share of a step: as given, or so that a resumed run keeps the parts that it had."""
    if cfg.SOLVER.ACCUM_STEPS:
        return cfg.SOLVER.ACCUM_STEPS
    num_parts = state.get("num_parts", world_size())
    if num_parts % world_size():
        logger.warning(
            "this run divided its steps into %s, which %s cannot share: BatchNorm will see other batches than before "
            "(the sum of them, the step, is the same)",
            count(num_parts, "part"),
            count(world_size(), "process"),
        )
        return 1
    return num_parts // world_size()
