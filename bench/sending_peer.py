"""`python -m bench.sending_peer FILE SECONDS`: a mail server that notes in FILE each message it takes.

It says its port first, and takes up to SECONDS for each answer. A message is noted before the answer goes out: from
then on it counts as delivered, whoever hears of it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Final, TextIO

from aiosmtpd.smtp import SMTP, Envelope, Session

SLOWEST: Final = 1.0  # seconds until an answer; a process that is killed meanwhile never hears it


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that the server has taken. `at`: seconds since 1970."""

    send_id: str
    message_id: str
    at: float


class _Notes:
    def __init__(self, file: TextIO, slowest: float) -> None:
        self._file = file
        self._slowest = slowest

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        assert isinstance(envelope.content, bytes)
        mail = BytesHeaderParser().parsebytes(envelope.content)
        self._file.write(json.dumps([mail["X-Send-Id"], mail["Message-ID"].strip(" <>"), time.time()]) + "\n")
        self._file.flush()
        await asyncio.sleep(random.uniform(0, self._slowest))
        return "250 OK"


@asynccontextmanager
async def mail_server(file: Path, *, slowest: float = SLOWEST) -> AsyncIterator[int]:
    """The server as a process of its own, which notes in `file`; its port."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.sending_peer", str(file), str(slowest)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


def taken(file: Path) -> list[Taken]:
    """What it has noted."""
    return [Taken(*json.loads(line)) for line in file.read_text().splitlines()]


async def _serve(file: Path, slowest: float) -> None:
    with file.open("a") as notes:
        handler = _Notes(notes, slowest)
        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(handler, hostname="peer.example", decode_data=False), "127.0.0.1", 0
        )
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))
