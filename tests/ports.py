"""Ports for servers that tests start."""

from __future__ import annotations

import contextlib
import os
import socket


def free_port() -> int:
    """A port below the range that clients' sockets are given, so that no closed one holds it."""
    for port in range(20000 + os.getpid() % 5000, 32000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no free port")
