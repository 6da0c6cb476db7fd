"""Entry point of a test: from the config to the result in OUTPUT_DIR/test."""

import logging
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow.compute as pc
import torch
from fvcore.common.config import CfgNode
from torch import nn

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import (
    VideoLoader,
    build_known_class_names,
    build_loader,
)
from slowfast.distributed.collectives import (
    computed_by_main,
    device,
    is_main,
    rank,
    wait_for_all,
    world_size,
)
from slowfast.distributed.job_lock import locked
from slowfast.distributed.signals import phase
from slowfast.engine.build_tracking import build_test_record
from slowfast.engine.choose_weights import find_test_weights
from slowfast.engine.compile import compile_for_inference
from slowfast.engine.report_thumbnails import build_thumbnails
from slowfast.engine.scoring_plan import ScoringPlan, build_result_record, plan_scoring
from slowfast.engine.unreadable_videos import MAX_LOGGED, log_unscored
from slowfast.evaluation.console_table import format_table
from slowfast.evaluation.metrics import Metrics
from slowfast.evaluation.predictions import FILE_NAME as PREDICTIONS_NAME
from slowfast.evaluation.predictions import SCORED, read_predictions
from slowfast.evaluation.result import REPORT_NAME, parse_metrics, read_metrics, write_result
from slowfast.evaluation.result_record import ResultRecord
from slowfast.evaluation.stored_temperature import read_temperature
from slowfast.evaluation.unlabeled_metrics import UnlabeledMetrics
from slowfast.inference.evaluator import Evaluator, build_evaluator, build_memory_remedy
from slowfast.inference.memory import explained_out_of_memory
from slowfast.inference.precision import dtype_name, set_up_kernels
from slowfast.models.build import build_model
from slowfast.models.weights import load_weights
from slowfast.utils.files import write_file
from slowfast.utils.progress import log_json_stats, log_to_file, start_logging
from slowfast.utils.text import count

logger = logging.getLogger(__name__)


def evaluate(cfg: CfgNode) -> Metrics | UnlabeledMetrics:
    """Test weights on all views of the test list, and write the result to OUTPUT_DIR/test.

    It runs in every process of the job, and the processes share the videos. The scores are written
    as they come. If the test is killed, the next call continues it, also with another number of
    processes. If OUTPUT_DIR/test holds another test, that one is set aside. A video that cannot be
    read has no scores and is never replaced. The videos of a list without labels are predicted, and
    there is no accuracy. See docs/evaluation.md for the files.

    Returns:
        The metrics, in every process.

    Raises:
        FileNotFoundError: If there are no weights or no list.
        ValueError: If the weights do not fit the model, the list is malformed, or no video has
            scores.
        FolderLockedError: If another test writes to this folder.
        OutOfMemoryError: If the device does not have enough memory.
    """
    start_logging(is_main=is_main())
    set_up_kernels(tf32=cfg.TRAIN.TF32)
    folder = Path(cfg.OUTPUT_DIR, "test")
    outcome = "the scores so far are saved. The same command continues the test"
    if cfg.TRAIN.ENABLE and not cfg.TRAIN.AUTO_RESUME:
        outcome += " with TRAIN.AUTO_RESUME True"

    with (
        phase("the test", outcome=outcome, can_continue=True),
        explained_out_of_memory(build_memory_remedy(cfg)),
        locked(cfg.OUTPUT_DIR, purpose="test"),
    ):
        if is_main():
            log_to_file(Path(cfg.OUTPUT_DIR, "stdout.log"))
        weights = computed_by_main(lambda: _build_weights_path(cfg))
        loader = build_loader(cfg, "test")
        record = computed_by_main(lambda: build_result_record(cfg, loader, weights=weights))
        fusion = cfg.DATA.ENSEMBLE_METHOD
        temperature = computed_by_main(lambda: _build_temperature(cfg, record))
        plan = computed_by_main(
            lambda: plan_scoring(folder, record, fusion=fusion, temperature=temperature)
        )

        if len(plan.groups):
            loader.eval_sampler.select(plan.groups)
            model = _build_tested_model(cfg, record)
            evaluator = build_evaluator(cfg)
            facts = _score_test(evaluator, model, loader, record=record, plan=plan, folder=folder)
        else:
            facts = plan.facts
        if is_main() and not plan.is_finished:
            annotations = loader.dataset.annotations
            write_result(
                folder,
                record,
                names=annotations.names,
                labels=annotations.labels,
                fusion=fusion,
                temperature=temperature,
                facts=facts,
            )
            write_file(folder / "config.yaml", cfg.dump())
        if is_main() and cfg.TEST.REPORT and not (folder / REPORT_NAME).exists():
            _build_report(cfg, folder, loader.dataset.annotations)
        metrics = computed_by_main(lambda: _report(folder, record, plan))
        if is_main() and not plan.is_finished and metrics.is_labeled:
            build_test_record(cfg, Path(record.weights), _plain_metrics(metrics))
        return metrics


def _score_test(
    evaluator: Evaluator,
    model: nn.Module,
    loader: VideoLoader,
    *,
    record: ResultRecord,
    plan: ScoringPlan,
    folder: Path,
) -> dict[str, Any]:
    """Write the missing scores of a test to a shard per process, and return facts about it."""
    num_videos = loader.eval_sampler.groups.num_videos_of(plan.groups)
    logger.info(
        "testing %s on %s, %s, with %s",
        record.weights,
        count(num_videos, "video"),
        _describe_views(record),
        count(world_size(), "process"),
    )

    started_at = perf_counter()
    with record.shards(folder).writer(start=plan.number, rank=rank()) as writer:
        is_complete = evaluator.score(model, loader, title="test", take=writer.write)
    assert is_complete, "a signal stops a test at once"
    wait_for_all()

    seconds = perf_counter() - started_at
    return {
        "device": _device_name(),
        "dtype": dtype_name(evaluator.amp),
        "num_processes": world_size(),
        "seconds": seconds,
        "videos_per_second": num_videos / seconds,
    }


def _build_weights_path(cfg: CfgNode) -> str:
    return find_test_weights(
        cfg.TEST.CHECKPOINT_FILE_PATH,
        folder=cfg.MODEL.WEIGHTS_DIR,
        output_dir=cfg.OUTPUT_DIR,
        best=cfg.TEST.TEST_BEST,
    )


def _build_temperature(cfg: CfgNode, record: ResultRecord) -> float | None:
    """Return the stored temperature of the weights, None unless it is asked for."""
    if not cfg.TEST.CALIBRATED:
        return None
    return read_temperature(
        record.weights, weights_sha256=record.identity["weights_sha256"], ema=cfg.TEST.EMA
    )


def _build_tested_model(cfg: CfgNode, record: ResultRecord) -> nn.Module:
    model = build_model(cfg)
    is_labeled = record.is_labeled
    load_weights(
        model,
        record.weights,
        use_ema=cfg.TEST.EMA,
        allowed=cfg.MODEL.ALLOWED_MISMATCH,
        class_names=build_known_class_names(cfg) if is_labeled else record.class_names,
    )
    model = model.to(device()).eval()
    if cfg.TEST.COMPILE:
        compile_for_inference(model)
    return model


def _build_report(cfg: CfgNode, folder: Path, annotations: Annotations) -> None:
    """Write the report page of a test."""
    from slowfast.evaluation.report.content import read_content
    from slowfast.evaluation.report.page import write_report
    from slowfast.evaluation.report.training_log import read_training

    thumbnails = None
    if cfg.TEST.THUMBNAILS:
        highlights = read_content(folder).highlights
        thumbnails = build_thumbnails(cfg, highlights, annotations=annotations)
    training = read_training(Path(cfg.OUTPUT_DIR))
    write_report(folder, training=training, thumbnails=thumbnails)


def _report(folder: Path, record: ResultRecord, plan: ScoringPlan) -> Metrics | UnlabeledMetrics:
    """Log the result of a test, and return its metrics."""
    metrics = parse_metrics(read_metrics(folder))
    if plan.is_finished:
        logger.info("%s: this test is finished. Delete the folder to test again", folder)

    title = f"test, {_describe_views(record)}"
    logger.info("%s", format_table(metrics, title=title))
    _log_unscored(folder, metrics)
    log_json_stats({"_type": "test", **_plain_metrics(metrics)})
    if metrics.num_nonfinite:
        logger.error(
            "%s had non-finite scores: the weights or TRAIN.AMP do not suit this data",
            count(metrics.num_nonfinite, "video"),
        )
    logger.info("scores, predictions and metrics: %s", folder)
    if (folder / REPORT_NAME).exists():
        logger.info("report: %s", folder / REPORT_NAME)
    return metrics


def _log_unscored(folder: Path, metrics: Metrics | UnlabeledMetrics) -> None:
    num_unscored = metrics.num_videos - metrics.num_scored
    if not num_unscored:
        return
    predictions = read_predictions(folder / PREDICTIONS_NAME, columns=["status", "reason"])
    reasons = predictions.filter(pc.not_equal(predictions["status"], SCORED))["reason"]
    log_unscored("test", reasons.slice(0, MAX_LOGGED).to_pylist(), num_unscored=num_unscored)


def _plain_metrics(metrics: Metrics | UnlabeledMetrics) -> dict[str, float]:
    return {name: value for name, value in vars(metrics).items() if isinstance(value, int | float)}


def _describe_views(record: ResultRecord) -> str:
    return f"{count(record.num_clips, 'clip')} x {count(record.num_crops, 'crop')}"


def _device_name() -> str:
    return torch.cuda.get_device_name() if device().type == "cuda" else "CPU"
