"""Whether a process can do its work, with a reason for each part, and that it heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import httpx

from receiver.event import EventType
from tests.processes import Process, site
from tests.service import Running, play, running
from tests.tcp_proxy import proxied
from tests.waiting import until
from tests.workers import start

HANDLER = """
from receiver import Context, Event, handler


@handler(tests=True)
async def count(event: Event, ctx: Context) -> None:
    pass
"""


async def parts(service: Running) -> dict[str, str]:
    answer = await service.client.get(f"{service.admin_url}/readyz")
    found: dict[str, Any] = answer.json()
    named = dict(found["parts"])
    assert found["ready"] == (answer.status_code == 200) == (set(named.values()) == {"ok"})
    return named


async def unready(service: Running, part: str) -> str:
    async def found() -> str:
        wrong = (await parts(service)).get(part, "ok")
        return "" if wrong == "ok" else wrong

    return await until(found)


async def ready(service: Running) -> None:
    async def well() -> bool:
        return set((await parts(service)).values()) == {"ok"}

    await until(well)


async def test_readiness_heals_by_itself(database: str, tmp_path: Path) -> None:
    """after an outage readiness comes back without any request: a load balancer sends none to what is not ready."""
    sendgrid = play("sendgrid", tmp_path)
    async with proxied(database) as (proxy, dsn), running(dsn, sendgrid, connection_dsn=database) as service:
        await ready(service)
        proxy.refusing = True
        proxy.cut()
        (post,) = sendgrid.posts(EventType.DELIVERED, "ada@one.test")
        assert (await service.post("sendgrid", post)).status_code == 503
        assert (await unready(service, "database")).startswith("cannot connect: ")
        assert "refuses to write" in await unready(service, "writer")
        proxy.refusing = False
        await ready(service)
        assert await service.count("events") == 0


async def test_one_stuck_request_leaves_it_ready(database: str, tmp_path: Path) -> None:
    """a request that waits for another transaction's lock says nothing about the others: it stays ready."""
    sendgrid = play("sendgrid", tmp_path)
    async with running(database, sendgrid) as service:
        await ready(service)
        (post,) = sendgrid.posts(EventType.DELIVERED, "ada@one.test")
        assert (await service.post("sendgrid", post)).status_code == 200
        (row,) = await service.events()
        await service.connection.execute("DELETE FROM event_ids; DELETE FROM events")
        async with service.connection.transaction():
            await service.connection.execute("INSERT INTO event_ids (id) VALUES ($1)", row["id"])
            stuck = asyncio.create_task(service.post("sendgrid", post))
            while not stuck.done():
                await ready_now(service)
                await asyncio.sleep(0.05)
            for _ in range(10):  # nor is the last try's end taken for a database that does not answer
                await ready_now(service)
                await asyncio.sleep(0.05)
        assert stuck.result().status_code == 503
        await ready_now(service)


async def ready_now(service: Running) -> None:
    assert set((await parts(service)).values()) == {"ok"}


async def test_a_database_that_takes_no_writes(database: str, tmp_path: Path) -> None:
    """a database that answers but is read-only makes it unready, with that reason."""
    async with running(database, play("sendgrid", tmp_path)) as service:
        name = await service.connection.fetchval("SELECT current_database()")
        await service.connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await service.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert await unready(service, "database") == "it is read-only"
        await service.connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await service.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await ready(service)


async def test_a_schema_that_does_not_fit(database: str, tmp_path: Path) -> None:
    """a database that was migrated beyond this release makes it unready, and says what to do."""
    async with running(database, play("sendgrid", tmp_path)) as service:
        await service.connection.execute(
            "INSERT INTO schema_versions (version, oldest_version, oldest_release) VALUES (99, 98, '7.1')"
        )
        assert "needs release 7.1 or newer" in await unready(service, "database")


async def test_a_worker_tells_what_is_wrong(database: str) -> None:
    """a worker without its database says so, and is well again once it is back."""
    async with proxied(database) as (proxy, dsn):
        one = start(dsn)

        async def well() -> bool:
            return one.worker.trouble() is None

        async def away() -> bool:
            return one.worker.trouble() == "its connection to the database was lost"

        await until(well)
        proxy.refusing = True
        proxy.cut()
        await until(away)
        proxy.refusing = False
        await until(well)
        await one.stop()


async def test_workers_have_admin_listeners_of_their_own(database: str, tmp_path: Path) -> None:
    """each worker on a host has readiness and metrics, on the first port from admin_port on that is free."""
    async with site(tmp_path, database) as home:
        (tmp_path / "handlers" / "count.py").write_text(HANDLER)
        wanted = home.port  # nothing else listens there in this test
        workers = [home.process("work", RECEIVER_ADMIN_PORT=str(wanted)) for _ in range(2)]
        for number, worker in enumerate(workers):
            await worker.start()
            metrics = await answered(worker, f"http://127.0.0.1:{wanted + number}/metrics")
            assert "receiver_build_info" in metrics
        for number in range(2):
            found = await answered(workers[number], f"http://127.0.0.1:{wanted + number}/readyz")
            assert '"ready":true' in found
            assert '"dispatch":"ok"' in found
        assert "admin_port_taken" in workers[1].log()
        for worker in workers:
            assert await worker.end(signal.SIGTERM) == 0


async def answered(process: Process, url: str) -> str:
    """What the URL says, once it answers with success."""

    async def answer() -> str:
        assert process.running, process.log()
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient() as client:
                got = await client.get(url)
                return got.text if got.status_code == 200 else ""
        return ""

    return await until(answer, within=60)
