"""Loader workers that are killed or stuck: the run ends with the cause."""

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]


def test_a_killed_worker_ends_the_run_with_the_cause(
    serve: Serve, faulty_arguments: Arguments, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    assert serve(faulty_arguments(kind="kill_worker"), num_processes=1, output=output) == [1]
    message = output.read_text().splitlines()[-1]
    assert message.startswith("error: rank 0: DataLoader worker")
    assert re.search(r"\bmemory\b.*: lower DATA_LOADER\.NUM_WORKERS", message)


def test_a_stuck_sample_ends_the_run_in_time(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # It never answers a request.
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        output = tmp_path / "output"
        settings = {
            "DATA__PATH_PREFIX": address,
            "DATA_LOADER__TIMEOUT": 3,
            "TRAIN__REHEARSE": True,
        }
        started_at = time.monotonic()
        assert serve(arguments("run", 1, **settings), num_processes=1, output=output) == [1]
        assert time.monotonic() - started_at < 30
    message = output.read_text().splitlines()[-1]
    assert message.startswith("error: rank 0: no batch came within 3 s; worker 0 at ")
    assert "DATA_LOADER.TIMEOUT" in message
