from pathlib import Path

import pytest
import torch
from torch import nn

from slowfast.distributed import collectives
from slowfast.distributed.launch import launch


def write_facts(folder: str) -> int:
    place = collectives.rank(), collectives.world_size()
    total = collectives.sum_over_ranks(torch.tensor([place[0] + 1.0]))
    means = collectives.mean_over_ranks({"a": place[0], "b": 10.0 * place[0]})
    model = nn.BatchNorm1d(1)
    model.running_mean.fill_(place[0] + 5)  # type: ignore[union-attr]
    collectives.copy_buffers_from_main(model)
    buffer = float(model.running_mean)  # type: ignore[arg-type]
    gathered = collectives.gather_over_ranks([place[0]] * (place[0] + 1))
    facts = (
        *place,
        total.item(),
        means["a"],
        means["b"],
        buffer,
        collectives.device(),
        collectives.is_main(),
        gathered,
    )
    Path(folder, str(place[0])).write_text(" ".join(map(str, facts)))
    return 0


def facts_in(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir())]


def share_five(folder: str) -> int:
    return collectives.share_of(5, key="TRAIN.BATCH_SIZE")


ALONE = ["0 1 1.0 0.0 0.0 5.0 cpu True [0]"]
TWO = ["0 2 3.0 0.5 5.0 5.0 cpu True [0, 1, 1]", "1 2 3.0 0.5 5.0 5.0 cpu False [0, 1, 1]"]


def test_no_process_is_started_for_one_cpu_process(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    assert launch(write_facts, str(tmp_path), num_processes=0) == 0
    torch.set_num_threads(threads)
    assert facts_in(tmp_path) == ALONE


def test_spawned_processes_combine_their_numbers(tmp_path: Path) -> None:
    assert launch(write_facts, str(tmp_path), num_processes=2, backend="gloo") == 0
    assert facts_in(tmp_path) == TWO


def test_a_batch_that_the_started_processes_cannot_share_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(share_five, str(tmp_path), num_processes=2, backend="gloo") == 1
    message = "TRAIN.BATCH_SIZE makes 5 over all machines, which 2 processes cannot share equally"
    assert message in capfd.readouterr().err
