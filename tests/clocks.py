"""Clocks that tests set: a database's own, and that of a process of ours."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import asyncpg

ZONE: Final = "Europe/Berlin"  # its clocks change at 01:00 UTC on the last Sundays of March and October

# What our statements call is found here before the server's own. A session of ours that is not in UTC is told so.
_SHIFTED: Final = f"""
CREATE TABLE clock AS SELECT interval '0' AS ahead;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('TimeZone') <> 'UTC' AND current_setting('application_name') LIKE 'receiver%' THEN
        RAISE 'the session % is in %', current_setting('application_name'), current_setting('TimeZone');
    END IF;
    RETURN pg_catalog.clock_timestamp() + (SELECT ahead FROM public.clock);
END $$;
CREATE FUNCTION public.now() RETURNS timestamptz STABLE LANGUAGE sql
AS 'SELECT pg_catalog.now() + (SELECT ahead FROM public.clock)';
CREATE FUNCTION public.statement_timestamp() RETURNS timestamptz STABLE LANGUAGE sql
AS 'SELECT pg_catalog.statement_timestamp() + (SELECT ahead FROM public.clock)';
ALTER TABLE events ALTER received_at SET DEFAULT public.now();
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
    EXECUTE format('ALTER DATABASE %I SET timezone = ''{ZONE}''', current_database());
END $$
"""


class ServerClock:
    """The clock of a database, as the statements of sessions see it that begin from now on."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def begin(self) -> None:
        """From now on the database has a clock of its own, and the zone of people whose clocks change."""
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(_SHIFTED)
        finally:
            await connection.close()

    async def jump(self, by: timedelta) -> None:
        """Ahead, or back."""
        await self._run("UPDATE clock SET ahead = ahead + make_interval(secs => $1)", by.total_seconds())

    async def set(self, moment: datetime) -> None:
        """It is that time now."""
        seconds = "extract(epoch FROM $1::timestamptz - pg_catalog.clock_timestamp())::float8"
        await self._run(f"UPDATE clock SET ahead = make_interval(secs => {seconds})", moment)

    async def _run(self, statement: str, value: float | datetime) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(statement, value)
        finally:
            await connection.close()
