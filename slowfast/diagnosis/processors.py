"""Checks of what computes: CPU cores, threads, GPUs and their kernels."""

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

from slowfast.diagnosis.cgroups import cpu_limit
from slowfast.diagnosis.finding import Finding, failed, ok, warning
from slowfast.utils.text import count

_CROWDED = 0.2  # Share of the memory of a GPU below which other processes must be using it.
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def check_cpu() -> Finding:
    """Check the cores that this process may use."""
    num_cores, limit = len(os.sched_getaffinity(0)), cpu_limit()
    model = _cpu_model()
    text = f"{model}, {num_cores} of {count(os.cpu_count() or num_cores, 'core')}"
    details = {"model": model, "allowed": num_cores, "all": os.cpu_count(), "cgroup_limit": limit}
    if limit is None or math.ceil(limit) >= num_cores:
        return ok(text, **details)

    usable = math.ceil(limit)
    return warning(
        f"{text}, but the container or job is limited to the time of {limit:g}",
        f"Set OMP_NUM_THREADS and DATA_LOADER.NUM_WORKERS to {usable} or less per process, since "
        "their defaults count the cores",
        **details,
    )


def check_torch() -> Finding:
    """Check that torch computes a convolution and its gradient on the CPU."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # A fork, for the all-reduce, does not survive other threads.
    weight = torch.ones(1, 1, 3, 3, 3, requires_grad=True)
    result = torch.nn.functional.conv3d(torch.ones(1, 1, 3, 4, 4), weight)
    result.sum().backward()
    torch.set_num_threads(num_threads)

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    if torch.version.hip:
        built = f"ROCm {torch.version.hip}"

    details = {"cuda": torch.version.cuda, "hip": torch.version.hip, "version": torch.__version__}
    is_right = weight.grad is not None and bool((weight.grad == 4).all())
    if not is_right or result.flatten().tolist() != [27.0] * 4:
        return failed("a convolution has wrong values", "Install torch again", **details)

    instructions = torch.backends.cpu.get_cpu_capability()
    return ok(f"{torch.__version__}, {built}, {instructions} on the CPU", **details)


def check_torchvision() -> Finding:
    """Check that torchvision fits torch."""
    import torch
    import torchvision

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        return failed(
            f"{torchvision.__version__} does not fit torch {torch.__version__}: {reason}",
            "Install both from one index, see INSTALL.md",
        )
    return ok(f"{torchvision.__version__} fits torch")


def check_threads() -> Finding:
    """Check the number of threads of a process."""
    import torch

    limit = cpu_limit() or math.inf
    usable = int(min(len(os.sched_getaffinity(0)), math.ceil(min(limit, 1 << 20))))
    settings = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    named = ", ".join(f"{name}={value}" for name, value in settings.items())
    text = f"{named}; torch uses {torch.get_num_threads()}" if settings else ""

    details = {"torch": torch.get_num_threads(), "usable": usable, **settings}
    invalid = [name for name, value in settings.items() if not re.fullmatch(r"[1-9]\d*", value)]
    if invalid:
        return warning(
            f"{text}: no number above 0", f"unset {' '.join(invalid)}, or set a number", **details
        )
    too_many = [name for name, value in settings.items() if int(value) > usable]
    if too_many:
        return warning(
            f"{text}, but this process may use {count(usable, 'core')}, so threads wait for cores",
            f"Set {' and '.join(too_many)} to {usable} or less",
            **details,
        )
    if not settings:
        text = f"processes share {count(usable, 'core')} (OMP_NUM_THREADS is not set)"
    return ok(text, **details)


# ---- GPUs ------------------------------------------------------------------------------------


def check_gpus() -> Finding:
    """Check that torch computes on each GPU."""
    import torch

    driver = _driver_version()
    if not torch.cuda.is_available():
        return _explain_missing_gpus(has_gpu=_has_nvidia_gpu(), driver=driver)

    gpus = [_describe_gpu(index) for index in range(torch.cuda.device_count())]
    problems = {index: reason for index in range(len(gpus)) if (reason := _gpu_problem(index))}
    names = [f"{gpu.name}, {gpu.gib} GiB, {gpu.free_gib} free" for gpu in gpus]
    text = f"{len(gpus)}x {names[0]}" if len(set(names)) == 1 else "; ".join(names)
    text += f"; driver {driver}, TRAIN.AMP auto is {gpus[0].amp}"

    details = {
        "driver": driver,
        "cuda": torch.version.cuda,
        "gpus": [gpu._asdict() for gpu in gpus],
    }
    if problems:
        named = "; ".join(f"GPU {index}: {reason}" for index, reason in problems.items())
        return failed(
            f"{text}. {named}",
            "Install a torch that supports this GPU, see pytorch.org, or leave the GPU out with "
            "CUDA_VISIBLE_DEVICES",
            **details,
        )
    crowded = [str(i) for i, gpu in enumerate(gpus) if gpu.free_gib < _CROWDED * gpu.gib]
    if crowded:
        return warning(
            f"{text}. The memory of GPU {', '.join(crowded)} is mostly taken",
            "See nvidia-smi for the processes that use it, or choose others with "
            "CUDA_VISIBLE_DEVICES",
            **details,
        )
    return ok(text, **details)


def _explain_missing_gpus(*, has_gpu: bool, driver: str) -> Finding:
    import torch

    details = {"driver": driver, "cuda": torch.version.cuda}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not has_gpu:
        return warning(
            "none: training and testing run on the CPU, slowly", "Set NUM_GPUS 0", **details
        )
    if visible in ("", "-1"):
        return warning(
            "CUDA_VISIBLE_DEVICES hides all GPUs of this machine",
            "unset CUDA_VISIBLE_DEVICES",
            **details,
        )
    if not torch.backends.cuda.is_built():
        return failed(
            "there is an NVIDIA GPU, but this torch is built without CUDA",
            "Install torch with CUDA, see INSTALL.md, or use NUM_GPUS 0",
            **details,
        )
    try:
        torch.cuda.init()
        reason = "torch reports no reason"
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
    return failed(
        f"torch cannot use the NVIDIA GPU, with driver {driver or 'unknown'}: {reason}",
        f"Install a driver for CUDA {torch.version.cuda}, or a torch for an older CUDA, see "
        "INSTALL.md",
        **details,
    )


class _Gpu(NamedTuple):
    """A GPU that torch can use."""

    name: str
    capability: str
    gib: int  # Its memory.
    free_gib: int
    amp: str  # Dtype of TRAIN.AMP auto.


def _describe_gpu(index: int) -> _Gpu:
    import torch

    from slowfast.inference.precision import amp_dtype, dtype_name

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    with torch.cuda.device(index):
        amp = dtype_name(amp_dtype("auto", torch.device("cuda", index)))
    return _Gpu(
        properties.name,
        capability=f"{properties.major}.{properties.minor}",
        gib=round(total / 2**30),
        free_gib=round(free / 2**30),
        amp=amp,
    )


def _gpu_problem(index: int) -> str:
    """Return why a GPU computes no convolution, "" if it does."""
    import torch

    device = torch.device("cuda", index)
    try:
        frames, weight = torch.ones(1, 2, 4, 8, 8, device=device), torch.ones(1, 2, 3, 3, 3)
        result = torch.nn.functional.conv3d(frames, weight.to(device))
        return "" if bool((result == 54).all()) else "a convolution has wrong values"
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]


def check_kernels() -> Finding:
    """Check the Triton kernels that make a training step on a GPU faster."""
    import torch

    if not torch.cuda.is_available():
        return ok("not needed without a GPU")

    from slowfast.models.depthwise import find_triton_problems

    if problems := find_triton_problems():
        return warning(
            "depthwise convolutions run frame by frame, which makes a step about 1.4 times as long",
            "; ".join(problems),
        )
    return ok("the Triton kernels for depthwise convolutions can run")


# ---- What the system tells -------------------------------------------------------------------


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(match[1].split()) if match else "unknown CPU"


def _has_nvidia_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _driver_version() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    match = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else ""
