import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing import ProcessRaisedException

from slowfast.utils import distributed


def write_facts(folder: str) -> int:
    place = distributed.rank(), distributed.world_size()
    total = distributed.sum_over_ranks(torch.tensor([place[0] + 1.0]))
    means = distributed.mean_over_ranks({"a": place[0], "b": 10.0 * place[0]})
    model = nn.BatchNorm1d(1)
    model.running_mean.fill_(place[0] + 5)  # type: ignore[union-attr]
    distributed.copy_buffers_from_main(model)
    buffer = float(model.running_mean)  # type: ignore[arg-type]
    gathered = distributed.gather_over_ranks([place[0]] * (place[0] + 1))
    facts = (
        *place,
        total.item(),
        means["a"],
        means["b"],
        buffer,
        distributed.device(),
        distributed.is_main(),
        gathered,
    )
    Path(folder, str(place[0])).write_text(" ".join(map(str, facts)))
    return 0


def raise_in_rank_1(folder: str) -> int:
    if distributed.rank() == 1:
        raise ValueError("broken on purpose")
    distributed.wait_for_all()
    return 0


def end_with_status(status: int) -> int:
    distributed.wait_for_all()
    return status


def facts_in(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir())]


def share_five(folder: str) -> int:
    return distributed.share_of(5, key="TRAIN.BATCH_SIZE")


ALONE = ["0 1 1.0 0.0 0.0 5.0 cpu True [0]"]
TWO = ["0 2 3.0 0.5 5.0 5.0 cpu True [0, 1, 1]", "1 2 3.0 0.5 5.0 5.0 cpu False [0, 1, 1]"]


def test_no_process_is_started_for_one_cpu_process(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    distributed.launch(write_facts, str(tmp_path), num_processes=0)
    torch.set_num_threads(threads)
    assert facts_in(tmp_path) == ALONE


def test_spawned_processes_combine_their_numbers(tmp_path: Path) -> None:
    distributed.launch(write_facts, str(tmp_path), num_processes=2, backend="gloo")
    assert facts_in(tmp_path) == TWO


def test_processes_of_torchrun_combine_their_numbers(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    (tmp_path / "out").mkdir()
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_distributed import write_facts\n"
        "from slowfast.utils.distributed import launch\n"
        f"launch(write_facts, {str(tmp_path / 'out')!r}, num_processes=2, backend='gloo')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert facts_in(tmp_path / "out") == TWO


def test_an_error_in_one_process_ends_all_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="broken on purpose"):
        distributed.launch(raise_in_rank_1, str(tmp_path), num_processes=2, backend="gloo")


@pytest.mark.parametrize("processes", [0, 2])
def test_the_exit_status_of_the_job_is_returned(processes: int) -> None:
    threads = torch.get_num_threads()
    assert distributed.launch(end_with_status, 3, num_processes=processes, backend="gloo") == 3
    torch.set_num_threads(threads)


def test_a_batch_that_the_started_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    message = "TRAIN.BATCH_SIZE makes 5 over all machines, which 2 processes cannot share equally"
    with pytest.raises(ProcessRaisedException, match=message):
        distributed.launch(share_five, str(tmp_path), num_processes=2, backend="gloo")


def test_more_gpus_than_the_machine_has_are_refused_with_the_remedy() -> None:
    number = torch.cuda.device_count() + 1
    problems = distributed.find_problems(num_processes=number, num_shards=1, backend="nccl", init_method="")
    assert problems == [
        f"NUM_GPUS is {number}, but this machine has {number - 1} GPUs; use at most that many, "
        "or NUM_GPUS 0 for one CPU process, or DIST_BACKEND gloo for several"
    ]
    assert not distributed.find_problems(num_processes=number, num_shards=1, backend="gloo", init_method="")


@pytest.mark.skipif("TORCHELASTIC_RUN_ID" in os.environ, reason="started by torchrun")
def test_several_machines_need_an_address() -> None:
    problems = distributed.find_problems(num_processes=0, num_shards=2, backend="gloo", init_method="")
    assert problems == ["NUM_SHARDS is 2, but no machine is named; add --init_method tcp://HOST_OF_SHARD_0:PORT"]
