"""A TCP server that sends a video as MPEG-TS in real time, stalls, and drops the connection.

Run it as a process: `python stream_server.py VIDEO PLAN...`. It prints its port. Each word of the
plan is `12` (send so many frames), `stall=3` (send nothing for 3 s), `until=FILE` (send nothing
until this file exists), `drop` (close the connection and wait for the next one), or `fast` (send as
fast as possible from now on).
"""

import io
import socket
import sys
import time
from pathlib import Path

import av


def packets_of(path: str) -> list[bytes]:
    """Return the bytes of each frame of an H.264 file as MPEG-TS."""
    chunks: list[bytes] = []
    with av.open(path) as source:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mpegts", options={"flush_packets": "1"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is None:
                    continue
                start = buffer.tell()
                packet.stream = stream
                target.mux(packet)
                chunks.append(buffer.getvalue()[start:])
    chunks.append(buffer.getvalue()[sum(map(len, chunks)) :])
    return chunks


def serve(path: str, plan: list[str]) -> None:
    chunks = iter(packets_of(path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
        interval = 1 / 25
        for word in plan:
            if word == "fast":
                interval = 0.0
            elif word == "drop":
                connection.close()
                connection, _ = server.accept()
            elif word.startswith("stall="):
                time.sleep(float(word.removeprefix("stall=")))
            elif word.startswith("until="):
                while not Path(word.removeprefix("until=")).exists():
                    time.sleep(0.02)
            else:
                due = time.monotonic()
                for _ in range(int(word)):
                    connection.sendall(next(chunks))
                    due += interval
                    time.sleep(max(due - time.monotonic(), 0))
        connection.close()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
