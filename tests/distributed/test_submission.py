"""The notes of a submission: written whole, and named with what to do where one is damaged."""

from pathlib import Path

import pytest

from slowfast.distributed.submission import Job, read_jobs, status_path, table, write_jobs
from slowfast.utils.files import write_json

DAMAGED = {
    "empty": "",
    "torn": '{"starts": 1,',
    "a list": "[]",
    "another": '{"starts": 1}',
    "binary": "\x00\x01",
}


def job_in(folder: Path) -> Job:
    return Job("17", "", str(folder / "run"), 1, str(folder))


def test_jobs_and_statuses_come_back_as_they_were(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    status = {"starts": 2, "idle_starts": 1, "status": None, "host": "a"}
    write_jobs([job])
    write_json(status_path(str(tmp_path), "17", 0), status)
    assert read_jobs(tmp_path) == [job]
    assert job.statuses() == [status]
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_status_is_named_with_the_remedy(tmp_path: Path, kind: str) -> None:
    path = status_path(str(tmp_path), "17", 0)
    path.write_text(DAMAGED[kind])
    with pytest.raises(
        ValueError, match=rf"^{path}: .*; delete it, and the starts of its job are counted anew$"
    ):
        job_in(tmp_path).statuses()


@pytest.mark.parametrize("kind", ["empty", "torn", "another", "binary"])
def test_a_damaged_list_of_jobs_is_named_with_the_remedy(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(DAMAGED[kind])
    with pytest.raises(
        ValueError,
        match=rf"^{path}: .*; its jobs cannot be listed, .*; submit again to get a new one$",
    ):
        read_jobs(tmp_path)


def test_a_damaged_result_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "run/test/result.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(
        ValueError, match=rf"^{path}: is not valid JSON .*; test again to write it anew$"
    ):
        table([job_in(tmp_path)], states=["COMPLETED"])
