"""The server of the demo: its address, and its end on Ctrl-C or SIGTERM."""

import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_STOP_SECONDS = 2  # for open connections

# gradio reads them when it is imported.
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for uploads that nobody else can read, and delete it at the end.

    Enter it before gradio is imported, which then uses no other folder and no network.
    """
    with tempfile.TemporaryDirectory(prefix="slowfast-serve-") as folder:
        os.environ.update(_ENVIRONMENT, GRADIO_TEMP_DIR=folder)
        yield Path(folder)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, port 0 for any free one.

    Raises:
        OSError: If the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} is in use on {host}. Choose another one with --port"
        else:
            reason = f"cannot listen on {host}, port {port}: {error.strerror or error}"
        raise OSError(reason) from error


def address_of(listener: socket.socket) -> str:
    """Return the address of a bound socket for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(listener: socket.socket) -> bool:
    """Return whether only this machine reaches a bound socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(application: object, listener: socket.socket) -> None:
    """Serve an application until Ctrl-C or SIGTERM."""
    import uvicorn

    class Server(uvicorn.Server):
        """A server that leaves the signals to us."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Capture none."""
            yield

    logging.getLogger("uvicorn.error").addFilter(_is_no_stopped_connection)
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=200,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    server = Server(config)

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_no_stopped_connection(record: logging.LogRecord) -> bool:
    """Return whether a record tells more than that the end of the server cuts connections."""
    return "timeout graceful shutdown exceeded" not in record.getMessage()
