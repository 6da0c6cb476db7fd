"""Launchers: the rank that torchrun, Slurm or submitit gives to each process it starts."""

import os
from typing import NamedTuple


class RankInfo(NamedTuple):
    """Rank of a process among all processes of its job, and the store where they meet."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    store_address: str  # tcp://host:port[/attempt], or job://host/name for a port from the name

    @property
    def num_machines(self) -> int:
        """Number of machines of the job."""
        return self.world_size // self.local_world_size


class LaunchedProcess(NamedTuple):
    """A process that a launcher started as one of several."""

    ranks: RankInfo
    hosts: tuple[str, ...] = ()  # One per machine. Empty if the launcher does not name them.
    num_cores: int = 0  # Cores of this task, 0 if the launcher does not limit them.


def find_launched() -> LaunchedProcess | None:
    """Return the rank of this process if a launcher started it as one of several.

    Raises:
        ValueError: If Slurm started different numbers of tasks on different machines.
    """
    for find in (_find_torchrun, _find_submitit, _find_slurm):
        launched = find()
        if launched is not None:
            return launched if launched.ranks.world_size > 1 else None
    return None


def launcher_settings() -> list[str]:
    """Return KEY VALUE pairs with the numbers of machines and processes that were launched."""
    launched = find_launched()
    if launched is None:
        return []

    ranks = launched.ranks
    settings = ["NUM_SHARDS", str(ranks.num_machines)]
    if ranks.local_world_size > 1:  # A single task per machine may spawn the others itself.
        settings += ["NUM_GPUS", str(ranks.local_world_size)]
    return settings


def _find_torchrun() -> LaunchedProcess | None:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    ranks = RankInfo(
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_world_size=int(os.environ["LOCAL_WORLD_SIZE"]),
        store_address=f"tcp://{host}:{port}/attempt{attempt}",
    )
    return LaunchedProcess(ranks)


def _find_submitit() -> LaunchedProcess | None:
    """Find a task of submitit's local executor. On a cluster, submitit starts tasks of Slurm."""
    is_local = os.environ.get("SUBMITIT_EXECUTOR") == "local"
    if not is_local or "SUBMITIT_LOCAL_GLOBALID" not in os.environ:
        return None

    num_tasks = int(os.environ["SUBMITIT_LOCAL_NTASKS"])
    ranks = RankInfo(
        rank=int(os.environ["SUBMITIT_LOCAL_GLOBALID"]),
        world_size=num_tasks,
        local_rank=int(os.environ["SUBMITIT_LOCAL_LOCALID"]),
        local_world_size=num_tasks,
        store_address=f"job://127.0.0.1/{os.environ['SUBMITIT_LOCAL_JOB_ID']}",
    )
    return LaunchedProcess(ranks)


def _find_slurm() -> LaunchedProcess | None:
    """Find a task of `srun`. The batch script itself is no task, whatever the job asks for."""
    if "SLURM_STEP_NUM_TASKS" not in os.environ or "SLURM_PROCID" not in os.environ:
        return None

    num_tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    num_nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
    tasks_per_node = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if num_tasks % num_nodes or "," in tasks_per_node:
        raise ValueError(
            f"Slurm started {tasks_per_node} tasks on {num_nodes} machines. Start as many on each "
            "with --ntasks-per-node"
        )

    hosts = _expand_node_list(os.environ["SLURM_STEP_NODELIST"])
    ranks = RankInfo(
        rank=int(os.environ["SLURM_PROCID"]),
        world_size=num_tasks,
        local_rank=int(os.environ["SLURM_LOCALID"]),
        local_world_size=num_tasks // num_nodes,
        store_address=f"job://{hosts[0]}/{_slurm_step_name()}",
    )
    return LaunchedProcess(ranks, hosts, num_cores=int(os.environ.get("SLURM_CPUS_PER_TASK", 0)))


def _slurm_step_name() -> str:
    # A restart needs a name of its own, because the ports of the last start may still be taken.
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}.{restart}"


def _expand_node_list(node_list: str) -> tuple[str, ...]:
    # Imported here because only tasks of Slurm need it. submitit's public parser reads the nodes
    # of the whole job, and a step may run on fewer.
    from submitit.slurm.slurm import _parse_node_list

    return tuple(_parse_node_list(node_list))
