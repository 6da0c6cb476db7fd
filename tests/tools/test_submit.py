"""What tools/submit.py requests from a scheduler, and what it refuses. Jobs run in tests/slurm."""

import runpy
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slowfast.distributed.submission import make_folder
from slowfast.distributed.submitted_job import SubmittedJob, write_jobs

Tool = Callable[..., int]


@pytest.fixture
def submit(
    repository: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Tool:
    """Call the tool in this process, in a folder of its own."""
    main = runpy.run_path(str(repository / "tools/submit.py"))["main"]
    monkeypatch.chdir(tmp_path)
    weights = tmp_path_factory.mktemp("weights")
    (weights / "uniformer_base_in1k.pth").touch()
    monkeypatch.setenv("WEIGHTS_DIR", str(weights))
    monkeypatch.setenv("PYTHONPATH", str(repository))
    experiment = str(repository / "exp/uniformer_b32x4_k600/config.yaml")
    return lambda *arguments: main(["--cfg", experiment, *arguments])


def read_directives(script: str) -> dict[str, str]:
    """Return the #SBATCH lines of a batch script."""
    prefix = "#SBATCH --"
    lines = [line for line in script.splitlines() if line.startswith(prefix)]
    pairs = [line.removeprefix(prefix).partition("=") for line in lines]
    return {name: value for name, _, value in pairs}


def test_an_experiment_requests_its_machines(
    submit: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit("--dry-run") == 0
    script = capsys.readouterr().out
    directives = read_directives(script)

    expected = {
        "job-name": "uniformer_b32x4_k600",
        "nodes": "4",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "time": "1440",
        "signal": "USR2@120",
    }
    assert directives.items() >= expected.items()
    assert "requeue" in directives
    assert "--kill-on-bad-exit=1" in script

    (export,) = (line for line in script.splitlines() if line.startswith("export PYTHONPATH="))
    assert "/code" in export


OPTIONS = {
    "partition": "gpu",
    "qos": "high",
    "constraint": "a100",
    "account": "video",
    "comment": "a try",
    "exclude": "node7",
    "mem": "200GB",
    "name": "first",
    "timeout": "90",
    "signal_delay": "300",
    "cpus": "5",
    "mail": "me@example.org",
    "num_shards": "2",
    "num_gpus": "4",
    "job_dir": "jobs here",
    "slurm_reservation": "night",
    "slurm_dependency": "afterok:7",
    "slurm_setup": "module load ffmpeg",
}
DIRECTIVES = {
    "partition": "gpu",
    "qos": "high",
    "constraint": "a100",
    "account": "video",
    "comment": "a try",
    "exclude": "node7",
    "mem": "200GB",
    "job-name": "first",
    "time": "90",
    "signal": "USR2@300",
    "cpus-per-task": "5",
    "mail-user": "me@example.org",
    "mail-type": "END,FAIL,REQUEUE",
    "nodes": "2",
    "ntasks-per-node": "4",
    "gpus-per-node": "4",
    "reservation": "night",
    "dependency": "afterok:7",
}


def test_every_option_reaches_the_batch_script(
    submit: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[str] = []
    for name, value in OPTIONS.items():
        words += [f"--{name}", value]
    assert submit("--dry-run", *words) == 0

    script = capsys.readouterr().out
    directives = read_directives(script)
    found = {name: "".join(shlex.split(value)) for name, value in directives.items()}
    assert found.items() >= DIRECTIVES.items()
    assert "module load ffmpeg" in script
    assert "jobs here/" in found["output"]


def test_gpus_are_requested_in_one_way(submit: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--dry-run", "--slurm_gres", "gpu:8") == 0
    requested = read_directives(capsys.readouterr().out)
    assert requested["gres"] == "gpu:8"
    assert "gpus-per-node" not in requested
    assert submit("--dry-run", "DIST_BACKEND", "gloo") == 0
    assert not {"gres", "gpus-per-node"} & read_directives(capsys.readouterr().out).keys()


def test_a_dry_run_leaves_nothing_behind(submit: Tool, tmp_path: Path) -> None:
    assert submit("--dry-run", "--array", "RNG_SEED=1,2,3") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SOLVER.BASE_LR", "-1"], "SOLVER.BASE_LR is -1"),
        (["--array", "RNG_SEED=4,4"], "two runs of --array are called RNG_SEED=4. Leave one out"),
        (["--array", "OUTPUT_DIR=/a/x,/b/x"], "have no folder in common (/a/x, /b/x)"),
        (["--array", "NUM_GPUS=4,8"], "the runs of --array need the same NUM_SHARDS and NUM_GPUS"),
        (["--array", "RNG_SED=4,8"], "RNG_SED"),
        (
            ["--cluster", "local"],
            "NUM_SHARDS is 4, but --cluster local is this machine alone. Use 1",
        ),
        (
            ["--table", "nowhere"],
            "nowhere holds no submission: none of nowhere/jobs.json, nowhere/*/jobs.json, "
            "nowhere/jobs/*/jobs.json exists. Name the folder that tools/submit.py printed",
        ),
    ],
)
def test_a_mistake_ends_in_one_message(
    submit: Tool,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    assert submit(*arguments) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cfg", ""], "error: no experiment is named. Add --cfg FILE"),
        (
            ["--timeout", "2"],
            "error: --timeout is 2 minutes, but the job saves its work 120 s before",
        ),
        (["--timeout", "1"], "error: --timeout is 1 minute, but"),
    ],
)
def test_wrong_usage_ends_in_status_2(
    submit: Tool, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert submit(*arguments) == 2
    assert capsys.readouterr().err.startswith(message)


def test_an_array_without_values_is_wrong_usage(
    submit: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        submit("--array", "RNG_SEED")
    assert error.value.code == 2
    assert "argument --array: RNG_SEED: write KEY=A,B,..." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["OUTPUT_DIR", "out"], "out/jobs"),
        (["OUTPUT_DIR", "out", "--array", "RNG_SEED=1"], "out/jobs"),
        (["OUTPUT_DIR", "out", "--array", "RNG_SEED=1,2", "--array", "LOG_PERIOD=1,2"], "out/jobs"),
        (["--array", "OUTPUT_DIR=out/a/x,out/b/x"], "out/jobs"),
        (["OUTPUT_DIR", "out", "--array", "RNG_SEED=1,2", "--job_dir", "here"], "here"),
    ],
)
def test_a_submission_lies_beside_the_results_of_its_runs(
    submit: Tool,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    expected: str,
) -> None:
    assert submit("--dry-run", *arguments) == 0
    logs = Path(read_directives(capsys.readouterr().out)["output"])
    assert logs.parents[1] == tmp_path / expected


@pytest.mark.parametrize("folder", ["run", "run/jobs", "run/jobs/20260102-000000-10"])
def test_the_table_finds_the_newest_submission(
    submit: Tool, capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: str
) -> None:
    names = ["20260102-000000-10", "20260102-000000-9", "20260102-000000", "20251231-235959-11"]
    for name in names:
        submission = tmp_path / "run/jobs" / name
        submission.mkdir(parents=True)
        output_dir = str(tmp_path / "run")
        write_jobs([SubmittedJob("7", f"of {name}", output_dir, 1, str(submission))])
    (tmp_path / "run/jobs/20270101-000000").mkdir()  # It is still being submitted.

    assert submit("--table", folder) == 0
    lines = capsys.readouterr().out.splitlines()
    if not folder.endswith(names[0]):
        assert lines.pop(0) == f"submission: run/jobs/{names[0]}"
    assert lines[0].startswith("run ")
    assert lines[1].startswith(f"of {names[0]} ")


def test_a_damaged_result_is_named_with_the_remedy(
    submit: Tool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = tmp_path / "run/test/metrics.json"
    result.parent.mkdir(parents=True)
    result.write_text("{")
    write_jobs([SubmittedJob("7", "", str(tmp_path / "run"), 1, str(tmp_path))])
    assert submit("--table", str(tmp_path)) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {result}: is not valid JSON ")
    assert errors.endswith(". Test again to write it anew\n")


def test_submissions_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "run/jobs/20260102-000000"
    with ThreadPoolExecutor(12) as pool:
        made = list(pool.map(lambda _: make_folder(folder), range(12)))
    assert {path.name for path in made} == {
        "20260102-000000",
        *(f"20260102-000000-{number}" for number in range(2, 13)),
    }
    assert all(path.is_dir() for path in made)


def test_a_machine_without_slurm_is_an_error(
    submit: Tool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert submit() == 1
    message = "no sbatch. Submit where Slurm is installed, or use --cluster local"
    assert message in capsys.readouterr().err


def test_debug_runs_in_this_process(
    submit: Tool,
    repository: Path,
    tiny_settings: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    quickstart = ["--cfg", str(repository / "exp/quickstart/config.yaml")]
    quickstart += tiny_settings(SOLVER__MAX_EPOCH=1)
    assert submit("--cluster", "debug", *quickstart) == 0
    assert "all classes" in capfd.readouterr().out
    assert (tmp_path / "run/test/metrics.json").exists()

    broken = ["MODEL.MODEL_NAME", "Uniformer", "DATA.PATH_PREFIX", "/none"]
    broken += ["OUTPUT_DIR", str(tmp_path / "other")]
    assert submit("--cluster", "debug", *quickstart, *broken) == 1
    assert "no such file. Check DATA.PATH_PREFIX" in capfd.readouterr().err
