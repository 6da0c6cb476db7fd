"""A server of `slowfast serve` in a process of its own, for the tests of the demo."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

ROOT = Path(__file__).parents[2]


class RunningServer(NamedTuple):
    """A server and its address."""

    process: "subprocess.Popen[str]"
    port: int
    temporary: Path  # folder for temporary files

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.port}"

    def left_files(self) -> list[Path]:
        """Files that the server holds on disk."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def memory(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


def memory_growth(server: RunningServer, request: Callable[[], None]) -> float:
    """Return by how many bytes the memory grows over 200 requests.

    It is ten times the median growth over 20 of them. The allocator may keep more at some time, but
    what a request leaves behind grows each time.

    Args:
        server: The server.
        request: Function that makes a request.
    """
    for _ in range(20):
        request()
    memory = []
    for number in range(201):
        if number % 20 == 0:
            memory.append(server.memory())
        request()
    growths = np.diff(memory)
    print(f"{memory[0] / 1e6:.0f} MB, growth over 20 requests in MB: {growths / 1e6}")
    return float(10 * np.median(growths))


@contextlib.contextmanager
def running_server(
    folder: Path, *arguments: str | Path, environment: dict[str, str] | None = None
) -> Iterator[RunningServer]:
    """Start a server with its log and temporary files in a folder, and stop it at the end."""
    temporary = folder / "temporary"
    temporary.mkdir(parents=True)
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    command = [sys.executable, "-m", "slowfast", "serve", *map(str, arguments)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=variables,
            cwd=folder,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert match, (folder / "log").read_text()
        yield RunningServer(process, int(match[1]), temporary)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


def wait_until_clean(server: RunningServer, *, seconds: float = 10) -> None:
    """Wait until a server holds no files."""
    end = time.monotonic() + seconds
    while files := server.left_files():
        assert time.monotonic() < end, files
        time.sleep(0.05)


def write_long_video(path: Path, *, hours: int) -> None:
    """Write a video of two frames that are hours apart."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for seconds in (0, hours * 3600):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = seconds
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
