"""Cost of a second process on this machine: steps, all-reduces, loading and start-up.

`python benchmarks/scaling.py [--steps N]` prints the tables of docs/cluster.md. Each figure of two
processes is compared with one process in the same run. If two processes share the cores of one, the
step without an exchange of gradients is measured beside the step with it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _checkout  # noqa: F401  the package of this checkout
import torch
import torch.nn.functional as F
from torch import nn

from slowfast.config import CfgNode, load_cfg
from slowfast.datasets.build import build_loader
from slowfast.distributed.collectives import (
    device,
    is_main,
    sum_over_ranks,
    wait_for_all,
    world_size,
)
from slowfast.distributed.launch import launch
from slowfast.engine.build import build_ddp
from slowfast.models.build import build_model, count_parameters
from slowfast.preparation.motion import make_motion

REPOSITORY = Path(__file__).parents[1]
QUICKSTART = str(REPOSITORY / "exp/quickstart/config.yaml")
GPUS = torch.cuda.device_count()
BACKEND = "nccl" if GPUS > 1 else "gloo"


def model_cfg(name: str) -> CfgNode:
    """Return the config of UniFormer-S or -B, or of the quickstart model."""
    if name == "quickstart":
        return load_cfg(QUICKSTART)
    path = Path(tempfile.mkdtemp()) / "config.yaml"
    bases = [
        str(REPOSITORY / "configs/kinetics.yaml"),
        str(REPOSITORY / f"configs/models/uniformer_{name}.yaml"),
    ]
    path.write_text(f"_BASE_: {json.dumps(bases)}\n")
    return load_cfg(str(path), ["DATA.NUM_FRAMES", "8"])


def measure_seconds(*works: Callable[[], object], repeats: int) -> list[float]:
    """Return the median time of each piece of work, done in turns by all processes together.

    The first repeat warms up and does not count.
    """
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repeats + 1):
        for work, work_seconds in zip(works, seconds, strict=True):
            wait_for_all()
            start = time.perf_counter()
            work()
            if device().type == "cuda":
                torch.cuda.synchronize()
            work_seconds.append(time.perf_counter() - start)
    return [median(work_seconds[1:]) for work_seconds in seconds]


def time_steps(folder: str, steps: int) -> int:
    """Time a step of the quickstart model with and without the exchange of gradients."""
    torch.set_num_threads(1)
    cfg = model_cfg("quickstart")
    alone, shared = (build_model(cfg).to(device()) for _ in range(2))
    together = build_ddp(cfg, shared, num_micro_batches=1)
    clips = torch.randn(8, 3, 8, 64, 64, device=device())  # (B, C, T, H, W)
    labels = torch.arange(8, device=device())

    def step(model: nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(clips), labels).backward()

    seconds = measure_seconds(lambda: step(alone), lambda: step(together), repeats=steps)
    return write_result(folder, dict(zip(("alone", "together"), seconds, strict=True)))


def time_all_reduces(folder: str, repeats: int) -> int:
    """Time an all-reduce of all gradients of UniFormer-S and -B."""
    result = {}
    for name in ("s", "b"):
        num_parameters = count_parameters(build_model(model_cfg(name)))
        gradients = torch.ones(num_parameters, device=device())
        result[f"{name}_megabytes"] = num_parameters * 4 / 1e6
        (seconds,) = measure_seconds(partial(sum_over_ranks, gradients), repeats=repeats)
        result[f"{name}_seconds"] = seconds
    return write_result(folder, result)


def time_loading(folder: str, data: str) -> int:
    """Measure the videos per second that all processes load together, with one worker each."""
    settings = ["DATA.PATH_TO_DATA_DIR", data, "DATA.PATH_PREFIX", data]
    settings += ["DATA.CLASS_NAMES", f"{data}/classes.txt"]
    settings += ["TRAIN.BATCH_SIZE", "8", "DATA_LOADER.NUM_WORKERS", "1"]
    loader = build_loader(load_cfg(QUICKSTART, settings), "train")

    seconds = []
    for epoch in range(6):  # The workers start in the first epoch.
        loader.set_epoch(epoch)
        wait_for_all()
        start = time.perf_counter()
        num_videos = sum(len(batch.labels) for batch in loader)
        wait_for_all()
        seconds.append(time.perf_counter() - start)

    videos_per_second = num_videos * world_size() / median(seconds[1:])
    return write_result(folder, {"videos_per_second": videos_per_second})


def do_nothing(folder: str) -> int:
    """Write an empty result. The start is what is timed."""
    return write_result(folder, {})


def write_result(folder: str, result: dict[str, float]) -> int:
    """Write the result of rank 0 where the parent reads it."""
    if is_main():
        Path(folder, "result.json").write_text(json.dumps(result))
    return 0


def measure(job: Callable[..., int], *args: object, num_processes: int) -> dict[str, float]:
    """Run a job in several processes.

    Returns:
        The result of the job, and `seconds` from the start to its end.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        status = launch(
            job, folder, *args, num_processes=num_processes, backend=BACKEND, num_helpers=0
        )
        assert status == 0, f"{job.__name__} ended with status {status}"
        result: dict[str, float] = json.loads(Path(folder, "result.json").read_text())
        return {**result, "seconds": time.perf_counter() - start}


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=10, help="steps of each measurement (default: %(default)s)"
    )
    args = parser.parse_args()

    num_cores = len(os.sched_getaffinity(0))
    print(f"{num_cores} cores, {GPUS} GPUs, {BACKEND}, torch {torch.__version__}")
    report_steps(args.steps)
    report_all_reduces(args.steps)
    report_loading()
    report_starts()


def report_steps(steps: int) -> None:
    """Print what the exchange of gradients adds to a step."""
    one = 1e3 * measure(time_steps, steps, num_processes=1 if GPUS > 1 else 0)["alone"]
    two = measure(time_steps, steps, num_processes=2)
    beside, together = 1e3 * two["alone"], 1e3 * two["together"]

    print("step of the quickstart model, 8 clips per process, 1 thread each")
    print(f"  1 process: {one:.0f} ms")
    print(f"  2 side by side: {beside:.0f} ms")
    print(f"  2 that exchange gradients: {together:.0f} ms")
    print(f"  the exchange costs {100 * (together / beside - 1):.0f} % of a step")


def report_all_reduces(repeats: int) -> None:
    """Print the size and speed of the all-reduce of a step of UniFormer-S and -B."""
    result = measure(time_all_reduces, repeats, num_processes=2)
    for name in ("s", "b"):
        megabytes, seconds = result[f"{name}_megabytes"], result[f"{name}_seconds"]
        speed = f"{1e3 * seconds:.0f} ms, {megabytes / 1e3 / seconds:.2f} GB/s"
        print(f"all-reduce of UniFormer-{name.upper()}: {megabytes:.1f} MB, {speed}")


def report_loading() -> None:
    """Print the loading speed of one process and of two."""
    with tempfile.TemporaryDirectory() as data:
        make_motion(Path(data), seed=1, videos_per_class={"train": 16, "val": 1, "test": 1})
        one = measure(time_loading, data, num_processes=0)["videos_per_second"]
        two = measure(time_loading, data, num_processes=2)["videos_per_second"]
    print(
        f"loading, 1 worker per process: {one:.0f} videos/s with 1 process, {two:.0f} with 2: "
        f"{two / one:.2f}"
    )


def report_starts() -> None:
    """Print how long a start takes."""
    seconds = measure(do_nothing, num_processes=2)["seconds"]
    print(f"start of 2 processes, to the end of an empty job: {seconds:.1f} s")

    run_net = str(REPOSITORY / "tools/run_net.py")
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, run_net, "--cfg", QUICKSTART, "--print-config"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    print(f"start of tools/run_net.py alone: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
