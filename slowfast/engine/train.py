"""The training loop."""

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from fvcore.nn.precise_bn import update_bn_stats
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from slowfast.datasets import VideoLoader, build_loader, build_mix, known_class_names
from slowfast.datasets.mixup import Mix
from slowfast.datasets.records import Batch
from slowfast.engine.evaluate import score_split, summarise
from slowfast.engine.optim import LOSSES, amp_dtype, autocast, build_optimizer, lr_at, set_lr
from slowfast.engine.unread import UnreadVideos
from slowfast.models import build_model, count_multiply_adds, count_parameters
from slowfast.models.weights import fill_weights, head_names, load_weights
from slowfast.models.zoo import weights_to_start
from slowfast.utils.checkpoint import checkpoint_path, load_checkpoint, newest_checkpoint, save_checkpoint
from slowfast.utils.distributed import (
    copy_buffers_from_main,
    device,
    is_main,
    mean_over_ranks,
    rank,
    wait_for_all,
    world_size,
)
from slowfast.utils.metrics import hits_at
from slowfast.utils.progress import Progress, log_json_stats, start_logging
from slowfast.visualization.tensorboard import ScalarWriter

logger = logging.getLogger(__name__)


def train(cfg: CfgNode) -> None:
    """Train a model from OUTPUT_DIR's newest checkpoint, given weights or nothing, up to SOLVER.MAX_EPOCH epochs.

    Runs in every process of the job, which share each batch. OUTPUT_DIR then holds config.yaml, stdout.log,
    checkpoints/ and, if wanted, tensorboard/.

    Raises:
        FileNotFoundError: a list or the weights to start from are missing.
        ValueError: a list, the weights or the checkpoint to resume from do not fit the config.
        DecodeError: more videos than DATA.MAX_BAD_FRACTION allows cannot be read.
        FloatingPointError: the loss is not finite.
    """
    start_logging(cfg.OUTPUT_DIR, is_main=is_main())
    if is_main():
        Path(cfg.OUTPUT_DIR, "config.yaml").write_text(cfg.dump())
    train_loader, val_loader = (build_loader(cfg, split) for split in ("train", "val"))
    mix = build_mix(cfg)

    torch.manual_seed(cfg.RNG_SEED)
    model = build_model(cfg).to(device())
    optimizer = build_optimizer(cfg, model)
    amp = amp_dtype(cfg.TRAIN.AMP, device())
    scaler = torch.amp.GradScaler(device().type, enabled=amp is torch.float16)
    _log_setup(cfg, model, amp=amp, num_videos=len(train_loader.dataset))
    first_epoch = _restore(cfg, model, optimizer, scaler)
    parallel = DistributedDataParallel(model) if world_size() > 1 else model

    folder = cfg.TENSORBOARD.LOG_DIR or str(Path(cfg.OUTPUT_DIR, "tensorboard"))
    unread = UnreadVideos(len(train_loader.dataset), max_fraction=cfg.DATA.MAX_BAD_FRACTION)
    writer = ScalarWriter(folder if cfg.TENSORBOARD.ENABLE and is_main() else None)
    for epoch in range(first_epoch, cfg.SOLVER.MAX_EPOCH):
        train_epoch(
            cfg,
            parallel,
            optimizer,
            scaler,
            train_loader,
            epoch=epoch,
            amp=amp,
            mix=mix,
            unread=unread,
            writer=writer,
        )
        done = epoch + 1
        is_last = done == cfg.SOLVER.MAX_EPOCH
        copy_buffers_from_main(model)
        if is_last or done % cfg.TRAIN.EVAL_PERIOD == 0:
            if cfg.BN.USE_PRECISE_STATS:
                _recompute_statistics(model, train_loader, num_batches=cfg.BN.NUM_BATCHES_PRECISE)
            validate(cfg, model, val_loader, epoch=epoch, writer=writer)
        if is_main() and (is_last or done % cfg.TRAIN.CHECKPOINT_PERIOD == 0):
            path = checkpoint_path(cfg.OUTPUT_DIR, epoch=done)
            save_checkpoint(path, _state(cfg, model, optimizer, scaler, epochs_done=done))
            logger.info("saved %s", path)
        wait_for_all()
    writer.close()


def train_epoch(
    cfg: CfgNode,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    loader: VideoLoader,
    *,
    epoch: int,
    amp: torch.dtype | None,
    mix: Mix | None,
    unread: UnreadVideos,
    writer: ScalarWriter,
) -> None:
    """Take one step per batch of one epoch, from 0."""
    model.train()
    loss_of = LOSSES[cfg.MODEL.LOSS_FUNC]
    loader.set_epoch(epoch)
    unread.start_epoch()
    num_steps = len(loader)
    progress = Progress(
        loader,
        f"train epoch {epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        period=cfg.LOG_PERIOD,
        steps_after=(cfg.SOLVER.MAX_EPOCH - epoch - 1) * num_steps,
    )
    for step, batch in enumerate(progress):
        unread.add(batch.unread)
        lr = lr_at(cfg, epoch + step / num_steps)
        set_lr(optimizer, lr)
        # Whatever is random in a step is a function of its place, never of what ran before: a resumed run repeats it.
        seed = (cfg.RNG_SEED, epoch, step, rank())
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        frames, label = (tensor.to(device(), non_blocking=True) for tensor in (batch.frames, batch.label))
        target = label
        if mix is not None:
            frames, target = mix(frames, label, np.random.default_rng(seed))
        with autocast(amp, device()):
            logits = model(frames)
            loss = loss_of(logits.float(), target)

        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        grad_norm = _clip_gradients(model, max_norm=cfg.SOLVER.CLIP_GRADIENT)
        scaler.step(optimizer)
        scaler.update()

        if progress.line_is_due():
            unread.report()
            _log_step(progress, writer, epoch=epoch, lr=lr, loss=loss, grad_norm=grad_norm, logits=logits, label=label)


def _clip_gradients(model: nn.Module, *, max_norm: float) -> Tensor:
    """Scale all gradients together to at most max_norm (0: leave them); returns their norm before."""
    return nn.utils.clip_grad_norm_(model.parameters(), max_norm or float("inf"))


def _log_step(
    progress: Progress[Batch],
    writer: ScalarWriter,
    *,
    epoch: int,
    lr: float,
    loss: Tensor,
    grad_norm: Tensor,
    logits: Tensor,
    label: Tensor,
) -> None:
    right = hits_at(logits.detach(), label, k=1).float().mean()
    means = mean_over_ranks({"loss": loss.item(), "top1": 100 * right.item()})
    record = progress.write_line(**means, lr=lr, grad_norm=grad_norm.item())
    if not np.isfinite(means["loss"]):
        raise FloatingPointError(
            f"the loss is {means['loss']} in epoch {epoch + 1}, step {record['step']}; "
            "lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, or set TRAIN.AMP off"
        )
    if is_main():
        log_json_stats({"_type": "train_step", "epoch": epoch + 1, **record})
        global_step = epoch * progress.num_steps + record["step"]
        shown = ("loss", "top1", "lr", "grad_norm", "step_seconds", "data_wait_seconds")
        writer.write({f"train/{name}": record[name] for name in shown}, step=global_step)


def validate(cfg: CfgNode, model: nn.Module, loader: VideoLoader, *, epoch: int, writer: ScalarWriter) -> None:
    """Score one centred view of each validation video after epoch `epoch`, from 0, and log the accuracies."""
    start = perf_counter()
    table = score_split(cfg, model, loader, title=f"validate epoch {epoch + 1}")
    result = summarise(table, loader.labels)
    if not is_main():
        return
    seconds = perf_counter() - start
    logger.info(
        "validation after epoch %d: top-1 %.2f  top-5 %.2f  (scored %d/%d, %.1fs)",
        *(epoch + 1, result.top1, result.top5, result.num_scored, result.num_videos, seconds),
    )
    log_json_stats({"_type": "val_epoch", "epoch": epoch + 1, "top1": result.top1, "top5": result.top5})
    writer.write({"val/top1": result.top1, "val/top5": result.top5}, step=(epoch + 1))


def _recompute_statistics(model: nn.Module, loader: VideoLoader, *, num_batches: int) -> None:
    """Replace the running BatchNorm statistics by the mean over training batches, and share those of rank 0."""
    frames = (batch.frames.to(device()) for batch in islice(loader, num_batches))
    update_bn_stats(model, frames, min(num_batches, len(loader)), progress=None)
    copy_buffers_from_main(model)


def _log_setup(cfg: CfgNode, model: nn.Module, *, amp: torch.dtype | None, num_videos: int) -> None:
    size = {"num_frames": cfg.DATA.NUM_FRAMES, "size": cfg.DATA.TRAIN_CROP_SIZE}
    global_batch = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS
    clips = global_batch * (cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1)
    logger.info(
        "%s: %.2f M parameters, %.2f G multiply-adds per view of %d frames at %d px",
        cfg.MODEL.MODEL_NAME,
        count_parameters(model) / 1e6,
        count_multiply_adds(cfg, **size) / 1e9,
        *size.values(),
    )
    logger.info(
        "training on %d videos with %d processes on %s, number format %s; a step takes %d videos (%d clips), "
        "largest learning rate %.3g",
        num_videos,
        world_size(),
        torch.cuda.get_device_name() if device().type == "cuda" else f"CPU ({torch.get_num_threads()} threads each)",
        str(amp or torch.float32).removeprefix("torch."),
        global_batch,
        clips,
        max(lr_at(cfg, epoch) for epoch in (0, cfg.SOLVER.WARMUP_EPOCHS)),
    )
    logger.info("outputs: %s", cfg.OUTPUT_DIR)


def _state(
    cfg: CfgNode, model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, *, epochs_done: int
) -> dict[str, Any]:
    """All that the rest of the run depends on; random draws depend on seed, epoch and step alone."""
    return {
        "epoch": epochs_done,
        "model_state": model.state_dict(),
        "class_names": known_class_names(cfg),
        "optimizer_state": optimizer.state_dict(),
        "scaler_state": scaler.state_dict(),
        "cfg": cfg.dump(),
    }


def _restore(cfg: CfgNode, model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler) -> int:
    """Load the newest checkpoint or the weights to start from, if any; returns the first epoch to train, from 0."""
    match: dict[str, Any] = {"allowed": cfg.MODEL.ALLOWED_MISMATCH, "class_names": known_class_names(cfg)}
    newest = newest_checkpoint(cfg.OUTPUT_DIR) if cfg.TRAIN.AUTO_RESUME else None
    if newest is None:
        if path := weights_to_start(cfg):
            load_weights(model, path, may_replace_head=True, **match)
        return 0
    state = load_checkpoint(newest)
    missing = [name for name in ("epoch", "optimizer_state", "scaler_state") if name not in state]
    if missing:
        raise ValueError(f"{newest}: cannot be resumed from, it has no {', '.join(missing)}; use another OUTPUT_DIR")
    report = fill_weights(model, state, path=str(newest), **match)
    try:
        optimizer.load_state_dict(state["optimizer_state"])
        _reorder_head(model, optimizer, report.class_order)
    except ValueError as error:
        raise ValueError(f"{newest}: was trained with another optimizer ({error}); use another OUTPUT_DIR") from error
    scaler.load_state_dict(state["scaler_state"])
    logger.info("resuming after epoch %d from %s", state["epoch"], newest)
    return int(state["epoch"])


def _reorder_head(model: nn.Module, optimizer: Optimizer, class_order: Sequence[int]) -> None:
    """Bring the rows of the optimizer's means into the order that those of the head were brought into, if they were."""
    for parameter in map(model.get_parameter, head_names(model) if class_order else ()):
        for mean in optimizer.state[parameter].values():
            if isinstance(mean, Tensor) and mean.shape == parameter.shape:
                mean.copy_(mean[[*class_order]])
