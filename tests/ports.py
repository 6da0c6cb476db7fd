"""Free ports for the servers of tests."""

import random
import socket

_PORTS = range(20000, 32768)  # below the ports that the system gives to clients


def free_port() -> int:
    """Return a port that nobody listens on and that the system gives to no client.

    A client that retries before its server listens could otherwise get the very port of the server,
    and connect to itself.
    """
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
