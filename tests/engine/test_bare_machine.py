"""The training step on a machine that has only torch, numpy, timm and numba."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys

MISSING = (
    "av fvcore iopath portalocker psutil pyarrow simplejson submitit tabulate tensorboard "
    "termcolor yacs"
).split()
sys.modules.update(dict.fromkeys(MISSING))  # Importing one of them raises ModuleNotFoundError.

import torch

from slowfast.datasets.mixup import Mix
from slowfast.datasets.records import Batch
from slowfast.datasets.normalization import Normalize
from slowfast.engine import agreement, ddp, recompute
from slowfast.inference import memory, prefetch
from slowfast.engine.ema import ModelEma
from slowfast.engine.skipped_steps import SkippedSteps
from slowfast.engine.forward import ForwardPass
from slowfast.engine.losses import LOSSES
from slowfast.engine.optim import make_optimizer, parameter_groups
from slowfast.engine.state import TrainingState
from slowfast.engine.step import TrainStep
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.models.uniformer import UniFormer
from slowfast.distributed import collectives

torch.manual_seed(0)
model = UniFormer(num_classes=4, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), head_dim=8)
groups = parameter_groups(model, weight_decay=0.05, norm_weight_decay=0.0, decay_1d=False)
state = TrainingState(
    model=model,
    optimizer=make_optimizer("adamw", groups, lr=1e-3),
    scaler=torch.amp.GradScaler("cpu", enabled=False),
    ema=ModelEma(model, decay=0.5),
)
mix = Mix(
    num_classes=4,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    probability=1.0,
    switch_probability=0.5,
    smoothing=0.1,
)
forward = ForwardPass(
    loss_fn=LOSSES["soft_cross_entropy"],
    normalize=Normalize(mean=[0.45] * 3, std=[0.225] * 3, erase_mode="pixel"),
    mix=mix,
)
train_step = TrainStep(
    state,
    forward=forward,
    skipped_steps=SkippedSteps(state.streak, max_in_row=2),
    unreadable_videos=UnreadableVideos(4, max_fraction=0.0),
    max_norm=20.0,
)
rows = torch.arange(4)
frames = torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8)
batch = Batch(frames, rows, rows, torch.zeros_like(rows), unreadable=())
nonfinite = batch._replace(frames=torch.full((4, 3, 4, 32, 32), torch.nan))
losses = [train_step.run((batch,), lr=1e-3).loss.item() for _ in range(3)]
saved = state.state_dict()
train_step.run((nonfinite,), lr=1e-3)
train_step.settle()
state.load_state_dict(saved, path="memory")
print(state.step, state.num_skipped_steps, all(0 < loss < 3 for loss in losses))
"""


def test_steps_need_no_library_for_files_videos_or_configs(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, cwd=repository
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "0", "True"]
    assert "epoch 1, step 4: non-finite numbers, the step is skipped, first in " in done.stderr
