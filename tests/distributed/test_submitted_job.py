"""Records of submitted jobs: written whole, and named with the remedy if they are damaged."""

from pathlib import Path

import pytest

from slowfast.distributed.submitted_job import (
    SubmittedJob,
    TaskStatus,
    final_status,
    read_jobs,
    status_path,
    write_jobs,
    write_status,
)

DAMAGED = {
    "empty": "",
    "torn": '{"starts": 1,',
    "a list": "[]",
    "another": '{"starts": 1}',
    "binary": "\x00\x01",
}


def job_in(folder: Path, *, num_tasks: int = 1) -> SubmittedJob:
    return SubmittedJob("17", "", str(folder / "run"), num_tasks, str(folder))


def test_jobs_and_statuses_come_back_as_they_were(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    status = TaskStatus(starts=2, idle_starts=1, status=None, host="a")
    write_jobs([job])
    write_status(status_path(str(tmp_path), "17", 0), status)
    assert read_jobs(tmp_path) == [job]
    assert job.statuses() == [status]
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_status_is_named_with_the_remedy(tmp_path: Path, kind: str) -> None:
    path = status_path(str(tmp_path), "17", 0)
    path.write_text(DAMAGED[kind])
    message = rf"^{path}: .*. Delete it, and the starts of its job are counted anew$"
    with pytest.raises(ValueError, match=message):
        job_in(tmp_path).statuses()


@pytest.mark.parametrize("kind", ["empty", "torn", "another", "binary"])
def test_a_damaged_list_of_jobs_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(DAMAGED[kind])
    message = rf"^{path}: .*. Its jobs cannot be listed, .*. Submit again to get a new one$"
    with pytest.raises(ValueError, match=message):
        read_jobs(tmp_path)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([0, 0], 0),
        ([0, None], 1),  # A task never ended.
        ([75, 3], 3),  # Task 1 failed for its own reasons, task 0 because of that.
        ([-9, 75], 75),
        ([-9, -9], 1),
    ],
)
def test_the_status_of_a_job_is_that_of_its_own_failure(
    tmp_path: Path, statuses: list[int | None], expected: int
) -> None:
    for task, status in enumerate(statuses):
        path = status_path(str(tmp_path), "17", task)
        write_status(path, TaskStatus(starts=1, status=status))
    assert final_status(job_in(tmp_path, num_tasks=2)) == expected
