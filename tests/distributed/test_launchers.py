"""Ranks and hosts from the environments of launchers."""

import pytest

from slowfast.distributed.launchers import find_launched, launcher_settings

STEP = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "a[1-2]",
    "SLURM_CPUS_PER_TASK": "5",
}


def set_step(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SUBMITIT_EXECUTOR", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (STEP | variables).items():
        monkeypatch.setenv(name, value)


def test_a_task_of_slurm_knows_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    set_step(monkeypatch, SLURM_RESTART_COUNT="7")
    launched = find_launched()
    assert launched is not None
    assert launched.num_cores == 5
    assert launched.ranks._asdict() == {
        "rank": 3,
        "world_size": 4,
        "local_rank": 1,
        "local_world_size": 2,
        "store_address": "job://a1/12.0.7",
    }
    assert launcher_settings() == ["NUM_SHARDS", "2", "NUM_GPUS", "2"]


@pytest.mark.parametrize(
    ("node_list", "hosts"),
    [
        ("node7", ["node7"]),
        ("a[1-2,7],b,c[08-10]x", ["a1", "a2", "a7", "b", "c08x", "c09x", "c10x"]),
        ("127.0.0.[1-2]", ["127.0.0.1", "127.0.0.2"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_short_forms_of_host_lists_by_hand(
    monkeypatch: pytest.MonkeyPatch, node_list: str, hosts: list[str]
) -> None:
    set_step(monkeypatch, SLURM_STEP_NODELIST=node_list)
    launched = find_launched()
    assert launched is not None
    assert launched.hosts == tuple(hosts)


def test_uneven_tasks_of_slurm_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_step(monkeypatch, SLURM_STEP_TASKS_PER_NODE="3,1")
    with pytest.raises(ValueError, match="Slurm started 3,1 tasks on 2 machines"):
        find_launched()
