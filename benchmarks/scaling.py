"""What a second process costs: steps, all-reduces, loading and start-up, on this machine.

`python benchmarks/scaling.py [--steps N]` prints the tables of docs/cluster.md. Figures of two processes are ratios to
one process in the same run; where two processes share the cores of one, the work of a step is measured beside them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import _cli  # noqa: F401  the package of this checkout
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


def seconds_of(*works: Callable[[], object], repeats: int) -> list[float]:
    """Return the median time of pieces of work that all processes do together, in turns, after one that counts not."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repeats + 1):
        for work, its_seconds in zip(works, seconds, strict=True):
            wait_for_all()
            start = time.perf_counter()
            work()
            if device().type == "cuda":
                torch.cuda.synchronize()
            its_seconds.append(time.perf_counter() - start)
    return [median(its_seconds[1:]) for its_seconds in seconds]


def time_steps(folder: str, steps: int) -> int:
    """Write the seconds of a step of the quickstart model, with and without the exchange of gradients."""
    torch.set_num_threads(1)
    cfg = model_cfg("quickstart")
    alone, shared = (build_model(cfg).to(device()) for _ in range(2))
    together = build_ddp(cfg, shared, parts_per_step=1)
    clips = torch.randn(8, 3, 8, 64, 64, device=device())
    labels = torch.arange(8, device=device())

    def step(model: nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(clips), labels).backward()

    seconds = seconds_of(lambda: step(alone), lambda: step(together), repeats=steps)
    return write(folder, dict(zip(("alone", "together"), seconds, strict=True)))


def time_all_reduces(folder: str, repeats: int) -> int:
    """Write size and seconds of an all-reduce of all gradients of S and B."""
    result = {}
    for name in ("s", "b"):
        number = count_parameters(build_model(model_cfg(name)))
        gradients = torch.ones(number, device=device())
        result[f"{name}_megabytes"] = number * 4 / 1e6
        (seconds,) = seconds_of(lambda summed=gradients: sum_over_ranks(summed), repeats=repeats)  # type: ignore[misc]
        result[f"{name}_seconds"] = seconds
    return write(folder, result)


def time_loading(folder: str, data: str) -> int:
    """Write the videos per second that all processes together load, one worker each."""
    where = [
        "DATA.PATH_TO_DATA_DIR",
        data,
        "DATA.PATH_PREFIX",
        data,
        "DATA.CLASS_NAMES",
        f"{data}/classes.txt",
    ]
    cfg = load_cfg(QUICKSTART, [*where, "TRAIN.BATCH_SIZE", "8", "DATA_LOADER.NUM_WORKERS", "1"])
    loader = build_loader(cfg, "train")
    seconds = []
    for epoch in range(6):  # the workers start in the first
        loader.set_epoch(epoch)
        wait_for_all()
        start = time.perf_counter()
        num_videos = sum(len(batch.label) for batch in loader)
        wait_for_all()
        seconds.append(time.perf_counter() - start)
    return write(folder, {"videos_per_second": num_videos * world_size() / median(seconds[1:])})


def do_nothing(folder: str) -> int:
    """Write nothing: what is timed is the start."""
    return write(folder, {})


def write(folder: str, result: dict[str, float]) -> int:
    """Leave the result of rank 0 where the parent looks for it."""
    if is_main():
        Path(folder, "result.json").write_text(json.dumps(result))
    return 0


def measure(job: Callable[..., int], *args: object, processes: int) -> dict[str, float]:
    """Return what a job writes, run by several processes, and the seconds from the start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        status = launch(job, folder, *args, num_processes=processes, backend=BACKEND, num_helpers=0)
        assert status == 0, f"{job.__name__} ended with status {status}"
        result: dict[str, float] = json.loads(Path(folder, "result.json").read_text())
        return {**result, "seconds": time.perf_counter() - start}


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10, help="of each measurement")
    args = parser.parse_args()
    print(
        f"{len(os.sched_getaffinity(0))} cores, {GPUS} GPUs, {BACKEND}, torch {torch.__version__}"
    )
    report_steps(args.steps)
    report_all_reduces(args.steps)
    report_loading()
    report_starts()


def report_steps(steps: int) -> None:
    """Print what the exchange of gradients adds to a step."""
    one = 1e3 * measure(time_steps, steps, processes=1 if GPUS > 1 else 0)["alone"]
    two = measure(time_steps, steps, processes=2)
    beside, together = 1e3 * two["alone"], 1e3 * two["together"]
    print("step of the quickstart model, 8 clips per process, 1 thread each")
    print(
        f"  1 process {one:.0f} ms; 2 side by side {beside:.0f} ms; 2 that exchange gradients {together:.0f} ms"
    )
    print(f"  the exchange costs {100 * (together / beside - 1):.0f} % of a step")


def report_all_reduces(repeats: int) -> None:
    """Print what all processes together move for a step of S and of B."""
    result = measure(time_all_reduces, repeats, processes=2)
    for name in ("s", "b"):
        megabytes, seconds = result[f"{name}_megabytes"], result[f"{name}_seconds"]
        speed = megabytes / 1e3 / seconds
        print(
            f"all-reduce of UniFormer-{name.upper()}: {megabytes:.1f} MB, {1e3 * seconds:.0f} ms, {speed:.2f} GB/s"
        )


def report_loading() -> None:
    """Print the throughput of loading against the number of processes."""
    with tempfile.TemporaryDirectory() as data:
        make_motion(Path(data), seed=1, videos_per_class={"train": 16, "val": 1, "test": 1})
        one, two = (
            measure(time_loading, data, processes=number)["videos_per_second"] for number in (0, 2)
        )
    print(
        f"loading, 1 worker per process: {one:.0f} videos/s with 1 process, {two:.0f} with 2: {two / one:.2f}"
    )


def report_starts() -> None:
    """Print how long a start takes."""
    seconds = measure(do_nothing, processes=2)["seconds"]
    print(f"start of 2 processes, to the end of an empty job: {seconds:.1f} s")
    command = [
        sys.executable,
        str(REPOSITORY / "tools/run_net.py"),
        "--cfg",
        QUICKSTART,
        "--print-config",
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"start of tools/run_net.py alone: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
