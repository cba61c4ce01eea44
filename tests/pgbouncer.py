"""PgBouncer in transaction mode in front of a test's database: Debian's package, run by hand for one test."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from receiver.embedded.places import account_for
from tests.ports import free_port
from tests.postgres import OVERRIDE
from tests.waiting import until

POOLER = "RECEIVER_TEST_POOLER"  # host and port of one that stands before the server of OVERRIDE
POOLED = POOLER in os.environ

# No prepared statements, no startup parameter that it does not know by itself: what the oldest in use can do.
INI = """
[databases]
* = host={sockets} port={port} user={user}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 200
server_login_retry = 1
logfile = {directory}/pgbouncer.log
"""


def through(dsn: str) -> str:
    """What the service is given for a test's database: as it is, unless the run is to go through a pooler."""
    parts, pooler = urlsplit(dsn), os.environ.get(POOLER)
    if pooler is None or parts.query != urlsplit(os.environ[OVERRIDE]).query:
        return dsn
    return f"postgresql://{parts.username}@{pooler}{parts.path}?sslmode=disable"


@asynccontextmanager
async def pooled(dsn: str, *, connections: int = 2) -> AsyncIterator[str]:
    """The DSN through a PgBouncer that has only so many connections to the server of `dsn`, a Unix socket's."""
    parts = urlsplit(dsn)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    directory = Path(tempfile.mkdtemp(prefix="receiver-tests-"))
    account, listen = account_for(directory), free_port()
    ini = directory / "pgbouncer.ini"
    ini.write_text(
        INI.format(
            sockets=query["host"], port=query.get("port", 5432), user=parts.username, listen=listen,
            connections=connections, directory=directory,
        )
    )  # fmt: skip
    if account.uid is not None and account.gid is not None:  # it refuses to run as root
        shutil.chown(directory, account.uid, account.gid)
    process = await asyncio.create_subprocess_exec(
        "pgbouncer", "-q", ini, user=account.uid, group=account.gid, extra_groups=account.groups
    )
    through = f"postgresql://{parts.username}@127.0.0.1:{listen}{parts.path}?sslmode=disable"
    try:
        await until(lambda: _answers(through))
        yield through
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(directory)


async def _answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True
