"""The checks of a machine, in the order of the report, and their findings as a whole."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from slowfast.diagnosis.finding import CHECK_SECONDS, FAILED, OK, WARNING, Check, Finding
from slowfast.diagnosis.isolation import run_checks
from slowfast.diagnosis.privacy import Privacy, environment

FORMAT = 1  # Version of the JSON.

_IMPORT_SECONDS = 120.0  # Importing torch from a cold network disk is slow, but works.


def diagnose(output_dir: Path) -> Iterator[tuple[str, Finding]]:
    """Yield the name and the finding of each check, without private names.

    Args:
        output_dir: Folder to which runs will write. It may not exist yet.
    """
    privacy = Privacy()
    for name, finding in run_checks([_system_checks(output_dir), _torch_checks()]):
        yield name, Finding(*privacy.clean(finding))


def worst_status(findings: Mapping[str, Finding]) -> str:
    """Return the status of a machine: that of its worst finding."""
    found = {finding.status for finding in findings.values()}
    return next((status for status in (FAILED, WARNING) if status in found), OK)


def as_plain_data(findings: Mapping[str, Finding]) -> dict[str, Any]:
    """Return the findings for JSON, with the environment variables that matter."""
    checks = [{"name": name, **finding._asdict()} for name, finding in findings.items()]
    return {
        "format": FORMAT,
        "status": worst_status(findings),
        "checks": checks,
        "environment": Privacy().clean(environment()),
    }


def _system_checks(output_dir: Path) -> list[Check]:
    """Return the checks that need no torch."""
    return [
        _check("Python", "software", "check_python"),
        _check("package", "software", "check_package", seconds=30.0),
        _check("module name", "software", "check_module_name"),
        _check("libraries", "software", "check_libraries"),
        _check(
            "export",
            "software",
            "check_extra",
            extra="export",
            modules=("onnx", "onnxscript", "onnxruntime"),
            feature="export to ONNX",
            least_torch="2.7",
        ),
        _check("numba", "software", "check_numba", seconds=_IMPORT_SECONDS),
        _check("PyAV", "video_codecs", "check_pyav"),
        _check("decoding", "video_codecs", "check_decoding", needs="PyAV"),
        _check("encoding", "video_codecs", "check_encoding", needs="PyAV"),
        _check("compiler", "programs", "check_compiler"),
        _check("Slurm", "programs", "check_slurm"),
        _check("CPU", "processors", "check_cpu"),
        _check("memory", "limits", "check_memory"),
        _check("open files", "limits", "check_open_files"),
        _check("processes", "limits", "check_processes"),
        _check("locked memory", "limits", "check_locked_memory"),
        _check("other limits", "limits", "check_other_limits"),
        _check("output folder", "folders", "check_output_folder", folder=output_dir),
        _check("temporary folder", "folders", "check_temporary_folder"),
        _check("download cache", "folders", "check_download_cache"),
        _check("hub cache", "folders", "check_hub_cache"),
        _check("plot cache", "folders", "check_plot_cache"),
    ]


def _torch_checks() -> list[Check]:
    """Return the checks that need torch. Those that fork come before CUDA is used."""
    return [
        _check("torch", "processors", "check_torch", seconds=_IMPORT_SECONDS),
        _check("torchvision", "processors", "check_torchvision", seconds=60.0, needs="torch"),
        _all_reduce("all-reduce", backend="gloo", seconds=30.0),
        _all_reduce("NCCL", backend="nccl", seconds=90.0),
        _check("GPU", "processors", "check_gpus", seconds=60.0, needs="torch"),
        _check("GPU kernels", "processors", "check_kernels", needs="torch"),
        _check("threads", "processors", "check_threads", needs="torch"),
        _check("shared memory", "shared_memory", "check_shared_memory", needs="torch"),
        _check("numba cache", "compiled_caches", "check_numba_cache", needs="torch"),
        _check("compile cache", "compiled_caches", "check_compile_cache", needs="torch"),
    ]


def _all_reduce(name: str, *, backend: str, seconds: float) -> Check:
    return _check(
        name,
        "process_group",
        "check_all_reduce",
        seconds=seconds,
        needs="torch",
        backend=backend,
    )


def _check(
    name: str,
    module: str,
    function: str,
    *,
    seconds: float = CHECK_SECONDS,
    needs: str = "",
    **kwargs: Any,
) -> Check:
    """Return a check that is imported when it is made, since its libraries may be broken."""

    def make() -> Finding:
        finding = getattr(import_module(f"slowfast.diagnosis.{module}"), function)(**kwargs)
        assert isinstance(finding, Finding)
        return finding

    return Check(name, make, seconds=seconds, needs=needs)
