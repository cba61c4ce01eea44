"""Listening sockets, and uvicorn for the admin listener."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn

from receiver.errors import ReceiverError

GRACE: Final = 15  # seconds that open requests get at a stop; longer than any provider waits is no use
BACKLOG: Final = 2048


class PortTaken(ReceiverError):
    """The address to listen on cannot be had."""


class Server(uvicorn.Server):
    """Uvicorn without its own signal handling: the service handles signals for both listeners."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(application: Any) -> Server:
    """A server that writes no access log (URLs may hold secrets) and adds no headers of its own."""
    return Server(
        uvicorn.Config(
            application,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE,
            backlog=BACKLOG,
        )
    )


def allow_files(wanted: int = 8192) -> None:
    """Raise this process's limit of open files, as far as it may: connections are files, and often 1024 the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # a system that allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def bind(host: str, port: int, what: str, *, shared: bool = False) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises PortTaken with what to do about it.

    `shared`: other processes may listen on the same port, if they say so too; new connections are spread over them.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {host}:{port} for {what}: {error.strerror or error}. "
            "Is it running already? Choose another address with RECEIVER_HOST, RECEIVER_PORT "
            "(RECEIVER_ADMIN_HOST, RECEIVER_ADMIN_PORT)."
        ) from error


def address(listener: socket.socket) -> str:
    """The URL of a bound listener."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
