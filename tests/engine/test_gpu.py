"""What runs differently on a GPU, without one: torch's own CUDA objects are stand-ins here."""

import copy
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.datasets.mixup import Mix
from slowfast.datasets.records import Batch
from slowfast.datasets.transforms import Normalize
from slowfast.distributed import collectives, launch
from slowfast.distributed.rendezvous import Place
from slowfast.engine import ddp, prefetch
from slowfast.engine.agreement import Agreement
from slowfast.engine.build import build_memory_limit, build_state
from slowfast.engine.ema import ModelEma
from slowfast.engine.evaluate import ScoreTable, evaluate, score_views
from slowfast.engine.identity import differences, identity_of
from slowfast.engine.memory import OutOfMemoryError, explained_out_of_memory
from slowfast.engine.optim import LOSSES, apply_gradients
from slowfast.engine.precision import set_up_kernels
from slowfast.engine.recompute import MARGIN, free_bytes
from slowfast.engine.skipped_steps import SkippedSteps
from slowfast.engine.state import TrainingState
from slowfast.engine.step import TrainStep
from slowfast.engine.train import _recompute_statistics, train
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.models.build import MODELS, Model
from slowfast.models.uniformer import UniFormer, build_uniformer
from slowfast.utils import compilers
from slowfast.utils.checkpoint import checkpoint_path, save_checkpoint
from slowfast.utils.progress import Progress

TinyCfg = Callable[..., CfgNode]
TINY: dict[str, Any] = {
    "num_classes": 3,
    "dims": (8, 8, 16, 16),
    "depths": (1, 1, 1, 1),
    "head_dim": 8,
}


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process believe that it computes on GPU 2 of 8; nothing can be computed there."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(collectives, "_on_gpu", True)


# ---- Copies to the device --------------------------------------------------------------------------------------------


class TensorOfGpu:
    """A tensor that notes the stream that it is handed to."""

    def __init__(self) -> None:
        self.streams: list[object] = []

    def to(self, device: torch.device, *, non_blocking: bool) -> "TensorOfGpu":
        assert non_blocking
        return self

    def record_stream(self, stream: object) -> None:
        self.streams.append(stream)


def test_epochs_copy_over_one_stream_per_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        made: list["Stream"] = []  # noqa: RUF012

        def __init__(self, device: torch.device) -> None:
            self.made.append(self)

        def wait_stream(self, other: object) -> None:
            assert other in self.made

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    computing = Stream(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    prefetch.copy_stream.cache_clear()

    frames: Any = TensorOfGpu()
    batch = Batch(frames, frames, torch.zeros(1), torch.zeros(1), unreadable=())
    for _ in range(5):
        assert len(list(prefetch.on_device(iter([(batch,)] * 2), torch.device("cuda", 0)))) == 2
    list(prefetch.batches_on_device(iter([batch]), torch.device("cuda", 0)))
    prefetch.copy_stream.cache_clear()
    assert len(Stream.made) == 2  # with the one that computes
    assert set(frames.streams) == {computing}


def test_rehearsal_training_and_evaluation_prefetch_alike(tiny_cfg: TinyCfg) -> None:
    callers: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if (
            frame.f_code is prefetch.on_device.__code__
            and event == "call"
            and frame.f_back is not None
        ):
            callers.add(
                f"{Path(frame.f_back.f_code.co_filename).stem}.{frame.f_back.f_code.co_name}"
            )

    cfg = tiny_cfg(
        TRAIN__REHEARSE=True, SOLVER__MAX_EPOCH=1, TRAIN__BATCH_SIZE=32, DATA_LOADER__NUM_WORKERS=0
    )
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        train(cfg)
    finally:
        sys.setprofile(before)
    assert callers == {"rehearse._train", "progress.__iter__", "prefetch.batches_on_device"}


def test_scores_are_added_while_the_next_are_computed() -> None:
    table = ScoreTable(4, num_views=1, num_classes=3)
    seen: list[int] = []

    class Model(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            seen.append(int(table.seen.sum()))
            return frames.mean(dim=(2, 3, 4))

    frames = torch.randn(4, 3, 1, 2, 2)
    rows = torch.arange(4)
    batch = Batch(frames, rows, rows, torch.zeros_like(rows), unreadable=())
    done = score_views(
        Model(),
        Progress([batch], "test", num_steps=1, period=1),
        table,
        normalize=Normalize(mean=[0.0] * 3, std=[1.0] * 3, erase_mode="const"),
        views_per_forward=1,
        amp=None,
    )
    assert done
    assert seen == [0, 0, 1, 2]
    assert torch.equal(table.scores, frames.mean(dim=(2, 3, 4)))


@pytest.mark.parametrize(("backend", "pinned"), [("nccl", True), ("gloo", False)])
def test_memory_is_pinned_only_for_a_gpu_in_use(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch, on_gpu: None, backend: str, pinned: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    collectives.use_device(0, on_gpu=backend == "nccl")
    assert build_loader(tiny_cfg(), "val").pin_memory is pinned


def test_the_agreement_waits_without_a_busy_core(
    monkeypatch: pytest.MonkeyPatch, on_gpu: None
) -> None:
    asked: list[dict[str, bool]] = []
    monkeypatch.setattr(torch.cuda, "Event", lambda **options: asked.append(options))
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, pin_memory: zeros(*size))
    Agreement()
    assert asked == [{"blocking": True}]


# ---- Processes -------------------------------------------------------------------------------------------------------


def test_nccl_is_told_the_gpu_of_each_process(
    monkeypatch: pytest.MonkeyPatch, on_gpu: None
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **options: given.update(options)
    )
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(launch, "_meeting", None)
    store = dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=9)
    )
    place = Place(
        rank=0,
        world_size=1,
        local_rank=2,
        local_world_size=1,
        address=f"tcp://127.0.0.1:{store.port}",
    )
    assert launch._run_at(place, "nccl", 9.0, lambda: 0, (), store=store) == 0
    assert given["device_id"] == torch.device("cuda", 2)


@contextmanager
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_ddp_does_not_cut_compiled_blocks() -> None:
    as_before = torch._dynamo.config.patch(optimize_ddp=True)
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model = UniFormer(**TINY, drop_path=0.0).blocks3
    holder = nn.Module()
    holder.blocks3 = model
    holder.forward = lambda x: model[0](x)
    with as_before, group_of_one(), torch.compiler.set_stance(force_backend=count):
        ddp.compile_blocks(holder)
        DistributedDataParallel(holder, bucket_cap_mb=0.001)(torch.randn(1, 16, 2, 2, 2))
    torch._dynamo.reset()
    assert len(graphs) == 1


# ---- Compiling -------------------------------------------------------------------------------------------------------


def test_compiling_for_a_gpu_needs_a_c_compiler_and_headers(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cfg = tiny_cfg(TRAIN__COMPILE=True, NUM_GPUS=1)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    no_compiler, no_header = ddp.find_problems(cfg)
    assert "no C compiler here (gcc, clang); install gcc" in no_compiler
    assert f"header {tmp_path}/Python.h is missing" in no_header

    (tmp_path / "Python.h").touch()
    (tmp_path / "my-cc").touch(mode=0o755)
    monkeypatch.setenv("CC", "my-cc")
    assert ddp.find_problems(cfg) == []


def test_the_docker_image_can_compile(repository: Path) -> None:
    installed = re.findall(
        r"install .*?((?: [\w+-]+)+) &&", (repository / "Dockerfile").read_text()
    )
    packages = " ".join(installed).split()
    assert {compilers.COMPILERS[0], compilers.C_COMPILERS[0]} <= {*packages}


# ---- Memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
        ),
        RuntimeError(
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        dist.DistBackendError(
            "NCCL error, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"
        ),
        dist.DistBackendError(
            "NCCL error, unhandled cuda error\nLast error:\nFailed to CUDA calloc async 8 bytes"
        ),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        MemoryError(),
    ],
)
def test_every_lack_of_memory_is_explained(error: Exception) -> None:
    with (
        pytest.raises(OutOfMemoryError, match="What helps: less") as caught,
        explained_out_of_memory("less"),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_other_errors_of_a_gpu_are_no_lack_of_memory() -> None:
    for message in (
        "CUDA error: an illegal memory access was encountered",
        "out of resource: shared memory",
    ):
        with pytest.raises(RuntimeError, match=message), explained_out_of_memory("less"):
            raise RuntimeError(message)


def test_all_that_is_still_to_come_is_kept_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 20_000))
    model = nn.BatchNorm1d(10)  # weights of 80 bytes; with the statistics and their counter, 168
    plain: dict[str, Any] = {
        "num_moments": 2,
        "num_gradient_copies": 1.0,
        "has_average": False,
        "input_bytes": 0,
    }
    assert free_bytes(model, **plain) == pytest.approx((1 - MARGIN) * (10_000 - 240))
    full: dict[str, Any] = {
        "num_moments": 2,
        "num_gradient_copies": 2.0,
        "has_average": True,
        "input_bytes": 1_000,
    }
    assert free_bytes(model, **full) == pytest.approx((1 - MARGIN) * (10_000 - 320 - 168 - 1_000))


def test_the_choice_of_blocks_counts_average_and_batches(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_cfg(
        NUM_GPUS=1,
        MODEL__CHECKPOINT_AUTO=True,
        MODEL__LOSS_FUNC="soft_cross_entropy",
        TRAIN__EMA_DECAY=0.9,
        DATA__UINT8=True,
        MIXUP__ENABLE=True,
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 2 * 10**9))
    model = nn.BatchNorm1d(10)  # weights of 80 bytes; with the statistics and their counter, 168
    limit = build_memory_limit(cfg, model, shape=(2, 3, 4, 10, 10), parts_per_step=2)
    # Gradients and two moments, the average, two uint8 batches of three steps, a float32 one normalized and one mixed.
    to_come = 3 * 80 + 168 + 6 * 2400 + 4 * 2400 + 4 * 2400
    assert limit == pytest.approx((1 - MARGIN) * (10**9 - to_come), rel=1e-12)


@pytest.mark.parametrize(
    ("phase", "settings", "remedy"),
    [
        ("build", {}, "TRAIN.BATCH_SIZE (now 8"),
        ("train", {}, "TRAIN.BATCH_SIZE (now 8"),
        ("eval", {}, "TEST.BATCH_SIZE (now 32)"),
        ("eval", {"TRAIN__ENABLE": False}, "TEST.BATCH_SIZE (now 32)"),
    ],
)
def test_a_lack_of_memory_is_explained_in_every_phase(
    tiny_cfg: TinyCfg,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    settings: dict[str, Any],
    remedy: str,
) -> None:
    def raise_error() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def take_all(model: nn.Module, inputs: tuple[Tensor]) -> None:
        if model.training == (phase == "train") and not inputs[0].is_meta:
            raise_error()

    def build(cfg: CfgNode) -> nn.Module:
        if phase == "build":
            raise_error()
        model = build_uniformer(cfg)
        model.register_forward_pre_hook(take_all)
        return model

    monkeypatch.setitem(MODELS, "hungry", Model(build))
    cfg = tiny_cfg(
        MODEL__MODEL_NAME="hungry",
        TRAIN__REHEARSE=True,
        TRAIN__BATCH_SIZE=8,
        TEST__BATCH_SIZE=32,
        **settings,
    )
    if cfg.TRAIN.ENABLE:
        with pytest.raises(OutOfMemoryError, match=re.escape(remedy)):
            train(cfg)
        return
    save_checkpoint(
        checkpoint_path(cfg.OUTPUT_DIR, epoch=1), {"model_state": build_uniformer(cfg).state_dict()}
    )
    with pytest.raises(OutOfMemoryError, match=re.escape(remedy)):
        evaluate(cfg)


# ---- Repeating a skipped step ----------------------------------------------------------------------------------------


class Small(nn.Module):
    """A classifier of three classes with a block that may be compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.block(frames))


def taker_of(model: nn.Module, *, mix: Mix | None = None) -> TrainStep:
    run = TrainingState(
        model,
        torch.optim.AdamW(model.parameters(), fused=True),
        torch.amp.GradScaler("cpu", enabled=False),
    )
    return TrainStep(
        run,
        loss=LOSSES["soft_cross_entropy"],
        normalize=Normalize(mean=[0.0] * 3, std=[1.0] * 3, erase_mode="const"),
        skipped_steps=SkippedSteps(run.streak, max_in_row=3),
        unreadable=UnreadableVideos(4, max_fraction=0.0),
        mix=mix,
    )


def small_batch(*, is_finite: bool) -> Batch:
    frames, rows = torch.randn(4, 3, 1, 8, 8), torch.arange(4)
    if not is_finite:
        frames[1, 0, 0, 0, 0] = torch.nan
    return Batch(frames, rows % 3, rows, torch.zeros_like(rows), unreadable=())


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_a_skipped_step_is_repeated_on_the_same_clips(mixup: float, cutmix: float) -> None:
    model = Small()
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    mix = Mix(
        num_classes=3,
        mixup_alpha=mixup,
        cutmix_alpha=cutmix,
        probability=1.0,
        switch_probability=0.5,
        smoothing=0.0,
    )
    batch = small_batch(is_finite=False)
    taker = taker_of(model, mix=mix)
    taker.take((batch,), lr=0.1)
    taker.settle()
    first, again = seen
    torch.testing.assert_close(again, first, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(first.nan_to_num(), batch.frames.nan_to_num())


def test_a_skipped_step_of_compiled_blocks_names_the_module(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Small()
    model.block.compile(backend="eager")
    taker = taker_of(model)
    for is_finite in (True, False):
        taker.take((small_batch(is_finite=is_finite),), lr=0.1)
    taker.settle()
    assert (
        "step 2: numbers that are not finite; the step is skipped, first in block.0," in caplog.text
    )


# ---- The moving average ----------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Notes what is computed, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_average_takes_few_kernels_and_no_wait() -> None:
    model = UniFormer(**TINY, drop_path=0.0)
    average = ModelEma(model, decay=0.999)
    expected = copy.deepcopy(model).state_dict()
    weight = 1 - torch.tensor(0.999)
    for number in range(3):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.copy_(torch.randn(value.shape))
        is_bad = number == 1
        with Operations() as operations:
            average.update(model, is_bad=torch.tensor(is_bad))
        assert len(operations.names) < 10
        assert "_local_scalar_dense" not in operations.names  # the host would wait for its device
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                expected[name].copy_(value)
            elif not is_bad:
                expected[name].lerp_(value, weight)
    for name, value in average.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


# ---- Number formats --------------------------------------------------------------------------------------------------


def test_float32_means_the_same_for_all_kernels() -> None:
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    try:
        for tf32 in (True, False):
            set_up_kernels(tf32=tf32)
            assert (cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (tf32, tf32, True)
    finally:
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def test_precise_statistics_are_those_of_the_number_format(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(TRAIN__AMP="bf16")
    loader = build_loader(cfg, "train")
    batch = next(iter(loader))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, frames: Tensor) -> Tensor:
            return self.norm(self.layer(frames.mean(dim=(2, 3, 4))))

    model = Model()
    _recompute_statistics(cfg, model, loader, num_batches=1)
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.layer(batch.frames.mean(dim=(2, 3, 4)))
    assert seen.dtype == torch.bfloat16
    torch.testing.assert_close(
        model.norm.running_mean, seen.float().mean(dim=0), rtol=1e-6, atol=1e-7
    )


def test_another_number_format_is_another_run(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(amp: str) -> dict[str, Any]:
        cfg = tiny_cfg(TRAIN__AMP=amp)
        return identity_of(cfg, build_loader(cfg, "train").dataset.annotations, start_weights="")

    auto, off, fp16 = (identity(amp) for amp in ("auto", "off", "fp16"))
    assert differences(off, auto) == []  # on a CPU, which computes in float32 either way
    assert differences(fp16, auto) == ["number format (TRAIN.AMP): 'float32' there, 'float16' here"]
    monkeypatch.setattr(collectives, "_on_gpu", True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert differences(identity("auto"), auto) == [
        "number format (TRAIN.AMP): 'float32' there, 'bfloat16' here"
    ]


@pytest.mark.parametrize(("before", "after"), [("off", "fp16"), ("fp16", "off"), ("fp16", "fp16")])
@pytest.mark.parametrize("fused", [True, False])
def test_a_run_resumes_with_the_optimizer_of_its_config(
    tiny_cfg: TinyCfg, caplog: pytest.LogCaptureFixture, before: str, after: str, fused: bool
) -> None:
    first = build_state(
        tiny_cfg(TRAIN__AMP=before, SOLVER__FUSED=not fused), identity={}, num_parts=1
    )
    second = build_state(
        tiny_cfg(TRAIN__AMP=after, SOLVER__FUSED=fused, SOLVER__WEIGHT_DECAY=0.5),
        identity={},
        num_parts=1,
    )

    def step(run: Any) -> None:
        run.optimizer.zero_grad()
        run.scaler.scale(run.model(torch.ones(2, 3, 4, 32, 32)).square().mean()).backward()
        run.scaler.unscale_(run.optimizer)
        apply_gradients(run.optimizer, run.scaler, is_bad=torch.tensor(False))

    step(first)
    second.load(first.state(), path="a file")
    assert {group["fused"] for group in second.optimizer.param_groups} == {fused}
    assert max(group["weight_decay"] for group in second.optimizer.param_groups) == 0.5
    assert ("the loss scale begins anew" in caplog.text) is ((before, after) == ("off", "fp16"))
    step(second)
    assert {state["step"].item() for state in second.optimizer.state.values()} == {2.0}


def test_a_run_does_not_resume_with_another_kind_of_optimizer(tiny_cfg: TinyCfg) -> None:
    first = build_state(tiny_cfg(SOLVER__OPTIMIZING_METHOD="sgd"), identity={}, num_parts=1)
    second = build_state(tiny_cfg(SOLVER__OPTIMIZING_METHOD="adamw"), identity={}, num_parts=1)
    with pytest.raises(ValueError, match="a file: was trained with another optimizer"):
        second.load(first.state(), path="a file")
