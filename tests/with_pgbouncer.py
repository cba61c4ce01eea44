"""Runs a command so that whatever tests start goes through a PgBouncer, while tests themselves look directly.

python -m tests.with_postgres python -m tests.with_pgbouncer COMMAND ...
"""

import asyncio
import os
import sys
from urllib.parse import urlsplit

from tests.pgbouncer import POOLER, pooled
from tests.postgres import OVERRIDE


async def main() -> int:
    async with pooled(os.environ[OVERRIDE], connections=20) as dsn:
        pooler = urlsplit(dsn).netloc.rpartition("@")[2]
        process = await asyncio.create_subprocess_exec(*sys.argv[1:], env=os.environ | {POOLER: pooler})
        return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
