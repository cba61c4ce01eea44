"""The decorator, the loading of handlers' files and packages, and their settings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic import BaseModel

import receiver
from receiver import Context, Event, EventType, RetryAfter, handler
from receiver.errors import ConfigError
from receiver.plugins.loading import load_handlers
from receiver.testing import Trial, event

GOOD = """
from receiver import Context, Event, EventType, handler

@handler(types=[EventType.BOUNCED], source="one")
async def good(event: Event, ctx: Context) -> None:
    '''Do something.

    And more.
    '''
"""
WITH_SETTINGS = """
from __future__ import annotations
from pydantic import BaseModel
from receiver import Context, Event, handler

class Shop(BaseModel):
    url: str
    limit: int = 3

@handler(settings=Shop, name="shop")
async def tell_shop(event: Event, ctx: Context[Shop]) -> None:
    ctx.settings.url
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files into a directory of handlers."""

    def write_files(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(dedent(text), encoding="utf-8")
        return tmp_path

    return write_files


def refused(directory: Path, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_handlers(directory, **options)
    return caught.value


def test_loading(write: Write) -> None:
    """every file gives its handlers, with where they come from; the directory is not put on sys.path"""
    directory = write(good=GOOD, shop=WITH_SETTINGS, _shared="raise SystemExit")
    before = list(sys.path)
    good, shop = load_handlers(directory, settings={"shop": {"url": "https://shop.example"}})
    assert sys.path == before
    assert (good.name, good.summary, good.batch) == ("good", "Do something.", False)
    assert good.filter.types == {EventType.BOUNCED}
    assert good.filter.source == {"one"}
    assert good.origin == str(directory / "good.py")
    assert shop.settings is not None
    assert shop.settings.model_dump() == {"url": "https://shop.example", "limit": 3}


def test_no_directory(tmp_path: Path) -> None:
    """a directory that is not there is refused; None means none"""
    assert load_handlers(None) == ()
    assert "there is no directory" in str(refused(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import no_such_module_anywhere\n", "line 1: ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("x = 1\n\ndef broken(:\n", "line 3: SyntaxError"),
        ("def f():\n    raise ValueError('no')\n\nf()\n", "line 2: ValueError: no"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        ("x = 1\n", "holds no handler"),
        (
            "from receiver import handler\n@handler()\ndef f(event, ctx):\n    yield\n",
            "line 2: TypeError: the handler 'f' must not yield",
        ),
        (
            "from receiver import handler\n@handler(types=['bunced'])\nasync def f(event, ctx): ...\n",
            "line 2: ValueError: 'bunced' is not a valid EventType",
        ),
    ],
)
def test_files_that_cannot_be_loaded(write: Write, text: str, expected: str) -> None:
    """a file that cannot be loaded stops the start, naming the file, the line and the exception"""
    directory = write(bad=text, good=GOOD)
    error = refused(directory)
    (problem,) = error.problems
    assert problem.key == str(directory / "bad.py")
    assert expected in problem.wrong
    assert (error.__cause__ is None) == ("holds no handler" in expected)


def test_every_problem_at_once(write: Write) -> None:
    """all problems are told together"""
    error = refused(write(a="1 / 0", b="import nothing_like_this"), packages=["no-such-package"])
    assert len(error.problems) == 3


def test_names_are_unique(write: Write) -> None:
    """two handlers cannot share a name, since it is what their progress is kept under"""
    error = refused(write(one=GOOD, two=GOOD))
    assert "'good' exists already" in str(error)
    assert "one.py" in str(error)


@pytest.mark.parametrize(
    ("settings", "key", "wrong"),
    [
        ({}, "handlers.shop.url", "Field required"),
        ({"shop": {"url": "x", "limit": "hunter2"}}, "handlers.shop.limit", "valid integer"),
        ({"shop": {"url": "x", "limt": 1}}, "handlers.shop.limt", "is not known"),
        ({"shop": {"url": "x"}, "shp": {}}, "handlers.shp", "no such handler"),
        ({"shop": {"url": "x"}, "good": {"a": 1}}, "handlers.good", "takes no settings"),
        ({"shop": {"url": "x", "run": {"timout": 1}}}, "handlers.shop.run.timout", "is not known"),
        ({"shop": {"url": "x", "run": {"timeout": "hunter2"}}}, "handlers.shop.run.timeout", "valid number"),
        ({"shop": {"url": "x", "run": {"concurrency": 0}}}, "handlers.shop.run.concurrency", "greater than or equal"),
        ({"shop": {"url": "x", "run": "hunter2"}}, "handlers.shop.run", "is not a table"),
    ],
)
def test_wrong_settings(write: Write, settings: dict[str, dict[str, Any]], key: str, wrong: str) -> None:
    """settings that do not fit their model, or fit nothing, are refused by their key and without their value"""
    error = refused(write(good=GOOD, shop=WITH_SETTINGS), settings=settings)
    (problem,) = error.problems
    assert problem.key == key
    assert wrong in problem.wrong
    assert "hunter2" not in str(error)


def test_how_it_is_run(write: Write) -> None:
    """operators change how a handler is run without its code; what they leave out is as its author chose it"""
    code = GOOD.replace('source="one"', 'source="one", timeout=5, max_attempts=3, ordered=True')
    table = {"timeout": "90", "concurrency": 8, "ordered": "false", "first_delay": 0.5, "longest_delay": 1}
    tables: dict[str, dict[str, Any]] = {
        "good": {"run": table},
        "shop": {"url": "https://shop.example", "run": {"batch_size": 20}},
    }
    good, shop = load_handlers(write(good=code, shop=WITH_SETTINGS), settings=tables)
    assert (good.run.timeout, good.run.max_attempts, good.run.concurrency, good.run.ordered) == (90, 3, 8, False)
    assert all(good.run.backoff(attempts) <= 1 for attempts in (1, 2, 10, 10_000))
    assert (shop.run.batch_size, shop.run.timeout) == (20, 30)
    assert shop.run.changed() == "batch_size 20"
    assert shop.settings is not None
    assert shop.settings.model_dump() == {"url": "https://shop.example", "limit": 3}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, "timeout of @handler"),
        ({"max_attempts": 0}, "max_attempts of @handler"),
        ({"concurrency": 65}, "concurrency of @handler"),
        ({"concurency": 2}, "does not know concurency"),
    ],
)
def test_wrong_numbers(options: dict[str, Any], error: str) -> None:
    """a number that makes no sense is refused where the handler is made"""
    with pytest.raises((TypeError, ValueError), match=error):
        handler(**options)


def test_settings_keep_off_the_table_of_execution() -> None:
    """a handler's own settings cannot have the name of the table that says how it is run"""

    class Taken(BaseModel):
        run: str = ""

    with pytest.raises(ValueError, match=r"\[handlers.taken.run\] says how the handler is run"):

        @handler(settings=Taken)
        async def taken(event: Event, ctx: Context[Taken]) -> None: ...


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """an installed package's handlers run only when the configuration names the package"""
    (tmp_path / "acme_events.py").write_text(GOOD, encoding="utf-8")
    info = tmp_path / "acme_handlers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme_handlers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[receiver.handlers]\nall = acme_events\none = acme_events:good\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_handlers(None) == ()
    assert "exists already" in str(_refused_packages("Acme.Handlers"))
    (info / "entry_points.txt").write_text("[receiver.handlers]\nall = acme_events\n")
    (one,) = load_handlers(None, packages=["Acme.Handlers"])
    assert (one.name, one.origin) == ("good", "Acme.Handlers (acme_events)")
    (info / "entry_points.txt").write_text("[receiver.handlers]\nall = acme_missing\n")
    assert "could not be loaded, ModuleNotFoundError" in str(_refused_packages("acme-handlers"))
    assert "no installed package" in str(_refused_packages("acme"))


def _refused_packages(name: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_handlers(None, packages=[name])
    return caught.value


def test_the_public_interface() -> None:
    """every public name is there, and importing the package alone does not load the database driver"""
    for name in receiver.__all__:
        assert getattr(receiver, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = receiver.nothing  # type: ignore[attr-defined]  # that it is not there is the point
    code = "import receiver, sys; sys.exit('asyncpg' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


USER_CODE = """
from collections.abc import Sequence
from datetime import timedelta
from pydantic import BaseModel
from receiver import (
    Context, Done, Event, EventType, GiveUp, Handler, Outcome, RetryAfter, Skip, SyncContext, handler
)

class Shop(BaseModel):
    url: str

@handler(types=[EventType.CLICKED])
async def one(event: Event, ctx: Context) -> None:
    await ctx.sql.execute("SELECT 1")

@handler(batch=True, tag=["a", "b"])
async def many(events: Sequence[Event], ctx: Context) -> Outcome | None:
    return Done() if events else Skip("nothing")

@handler(settings=Shop)
async def shop(event: Event, ctx: Context[Shop]) -> RetryAfter | GiveUp:
    reveal_type(ctx.settings.url)
    return RetryAfter(timedelta(minutes=5)) if event.attempt else GiveUp("no")

@handler(settings=Shop, concurrency=4, ordered=True)
def in_thread(event: Event, ctx: SyncContext[Shop]) -> GiveUp | None:
    reveal_type(ctx.settings.url)
    reveal_type(ctx.sql.fetchrow("SELECT 1", event.id))
    with ctx.sql.savepoint():
        ctx.contacts.suppress("ann@example.com", at=ctx.now)
    ctx.send(template="a", topic="news", to="ann@example.com", key="a")
    return None

@handler(batch=True)
def many_in_thread(events: Sequence[Event], ctx: SyncContext) -> None: ...

made: list[Handler] = [one, many, shop, in_thread, many_in_thread]
"""

WRONG_CODE = """
from collections.abc import Sequence
from receiver import Context, Event, SyncContext, handler

@handler(batch=True)
async def single_for_batch(event: Event, ctx: Context) -> None: ...

@handler()
async def batch_for_single(events: Sequence[Event], ctx: Context) -> None: ...

@handler()
async def no_outcome(event: Event, ctx: Context) -> int:
    return 3

@handler(typs=[])
async def mistyped(event: Event, ctx: Context) -> None: ...

@handler()
async def commits(event: Event, ctx: Context) -> None:
    await ctx.sql.commit()

@handler()
def wrong_context(event: Event, ctx: Context) -> None: ...

@handler()
def misuses(event: Event, ctx: SyncContext) -> None:
    ctx.sql.execute(3)
"""


def _mypy(path: Path, code: str) -> str:
    path.write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(path.parent / "cache")]
    root = Path(__file__).parents[1]
    return subprocess.run([*command, str(path)], check=False, capture_output=True, text=True, cwd=root).stdout


def test_types_of_handlers(tmp_path: Path) -> None:
    """a handler passes the strict type check, its settings included; a wrong signature is reported where it stands"""
    right = _mypy(tmp_path / "right.py", USER_CODE)
    assert 'Revealed type is "str"' in right
    assert "error" not in right
    wrong = _mypy(tmp_path / "wrong.py", WRONG_CODE)
    lines = {line.split(":")[1] for line in wrong.splitlines() if ": error:" in line}
    assert lines == {"5", "8", "11", "15", "20", "22", "27"}, wrong


class Shop(BaseModel):
    url: str = "https://shop.example"


async def test_trying_a_handler(database: str) -> None:
    """a trial filters, calls with settings and clock, shows what was done, raises what was raised, leaves nothing"""

    @handler(types=[EventType.OPENED], settings=Shop)
    async def shop(event: Event, ctx: Context[Shop]) -> RetryAfter | None:
        await ctx.contacts.update(event.recipient or "", shop=ctx.settings.url, attempt=ctx.attempt)
        if ctx.attempt > 2:
            raise LookupError("enough")
        if ctx.replaying:
            return RetryAfter(timedelta(minutes=5))
        return None

    async with Trial(database) as trial:
        assert (await trial.run(shop, event("clicked"))).outcome is None
        result = await trial.run(shop, event("opened"), settings=Shop(url="https://other.example"), attempt=2)
        assert result.contacts["ann@example.com"].attributes == {"shop": "https://other.example", "attempt": 2}
        later = await trial.run(shop, event("opened", recipient="bob@example.com"), replaying=True)
        assert later.outcome == RetryAfter(timedelta(minutes=5))
        assert later.contacts == {}
        with pytest.raises(LookupError, match="enough"):
            await trial.run(shop, event("opened"), attempt=3)
        assert await trial.sql.fetchval("SELECT attributes->>'attempt' FROM contacts") == "2"
    async with Trial(database) as trial:
        assert await trial.sql.fetchval("SELECT count(*) FROM contacts") == 0


async def test_a_trial_of_a_batch(database: str) -> None:
    """a batch handler gets all its events in one call"""

    @handler(batch=True)
    async def count(events: Sequence[Event], ctx: Context) -> None:
        await ctx.send(template="count", topic="news", to="ann@example.com", key=f"count:{len(events)}")

    async with Trial(database) as trial:
        result = await trial.run(count, *(event("delivered") for _ in range(5)))
    assert [send.key for send in result.sends] == ["count:5"]


def test_made_up_events() -> None:
    """an event for a test takes any column, in words, and refuses what is none"""
    made = event("bounced", recipient="bob@example.org", bounce_category="hard", tags=["a"])
    assert (made.type, made.recipient_domain, str(made.bounce_category)) == (EventType.BOUNCED, "example.org", "hard")
    with pytest.raises(ValueError, match="bunced"):
        event("bunced")
    with pytest.raises(ValueError, match="hrd"):
        event("bounced", bounce_category="hrd")


TRIAL = """
import asyncio, sys
sys.path.insert(0, "handlers")
from receiver.testing import Trial, event
from suppression import suppression

async def main():
    for _ in range(2):
        async with Trial() as trial:
            one = event("bounced", recipient="ann@example.com", bounce_category="hard")
            result = await trial.run(suppression, one)
            assert result.suppressions[0].reason == "hard_bounce"

asyncio.run(main())
print("tried")
"""


def test_a_trial_without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """without a database a trial starts an embedded one, which ends with the process"""
    monkeypatch.delenv("RECEIVER_TRIAL_DATABASE_URL", raising=False)
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", TRIAL], check=False, capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "tried", done.stderr


def _examples() -> list[str]:
    text = (Path(__file__).parents[1] / "docs" / "handlers.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


async def test_the_documents_examples(database: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """the examples of docs/handlers.md load as handlers' files, do what they say, and their test passes"""
    first, with_settings, in_thread, trial = _examples()
    directory = write(first=first, shop=with_settings, thread=in_thread)
    click, shop, export = load_handlers(directory, settings={"tell_shop": {"url": "https://shop.example"}})
    async with Trial(database) as trying:
        result = await trying.run(click, event("clicked", tags=["trial"]))
        assert [send.key for send in result.sends] == ["tips:ann@example.com"]
        for one in (shop, export):
            assert (await trying.run(one, event("delivered"))).outcome is not None
    monkeypatch.setenv("RECEIVER_TRIAL_DATABASE_URL", database)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    namespace: dict[str, Any] = {}
    exec(trial, namespace)
    await namespace["test_a_hard_bounce_suppresses"]()
