"""Ports for the servers of tests."""

import random
import socket

_PORTS = range(20000, 32768)  # below those that the system gives to clients


def free_port() -> int:
    """Return a port that nobody listens on, and that no client can have.

    A client that tries again and again to reach a server which is not there yet may be given that very port by the
    system if it is one for clients, and is then connected to itself.
    """
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
