"""The command line before and beside the service: help, init, check, migrate, health, and how commands fail."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from receiver.alert_settings import AlertSettings
from receiver.cli.app import tree
from receiver.cli.place import who
from receiver.contract import SourceSettings
from receiver.demo import make_demo
from receiver.errors import ConfigError
from receiver.policy_settings import PolicySettings
from receiver.privacy_settings import PrivacySettings
from receiver.providers import providers
from receiver.retention_settings import RetentionSettings
from receiver.runfile import find_runs, kept, this_run
from receiver.settings import Settings
from tests.cli import Receiver, command
from tests.service import play, running

KEY = "k3y-0123456789-abcdefghijklmnopqrstuvwxyz"
PASSWORD = "Zz9-postmark-password-of-the-test"
CANARY = "cAnArY-7f3e9b21d4"


@pytest.fixture
def receiver(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """The command line in an empty directory, with none of our variables set."""
    for name in [name for name in os.environ if name.startswith("RECEIVER_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return command(capsys)


def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, *path, name)
        else:
            yield (*path, name), one


COMMANDS = dict(commands(tree()))


def groups(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from groups(one, *path, name)


GROUPS = tuple(groups(tree()))


def helps(command_: Any) -> Iterator[str]:
    """What a page of help is made from: the command's own text, its options', and those of the commands below it."""
    yield command_.help or ""
    yield from (option.help or "" for option in command_.params if hasattr(option, "help"))
    yield from ((one.help or "").partition("\n\n")[0] for one in getattr(command_, "commands", {}).values())


@pytest.mark.parametrize("path", [*COMMANDS, *GROUPS], ids=lambda path: " ".join(path) or "receiver")
async def test_help(receiver: Receiver, path: tuple[str, ...]) -> None:
    """a command explains itself with an example, which begins as it does; no text in brackets is taken for markup"""
    shown = await receiver(*path, "--help")
    assert shown.code == 0
    if path in COMMANDS:
        words = " ".join(shown.out.replace("│", " ").split())
        assert f"receiver {' '.join(path)}".removesuffix(" list") in words.partition("Example:")[2]
    one: Any = tree()
    for name in path:
        one = one.commands[name]
    for text in helps(one):
        for word in re.findall(r"\[[^\]]+\]", text):
            assert word in shown.out


def test_all_commands_are_there() -> None:
    """the tree of commands is the documented one"""
    assert {" ".join(path) for path in COMMANDS} == {
        *("init", "serve", "work", "migrate", "check", "health", "database", "simulate", "cursors rebase"),
        *("keys list", "keys create", "keys rotate", "keys revoke"),
        *("handlers list", "handlers pause", "handlers resume", "handlers rewind", "handlers backfill"),
        *("handlers cancel", "handlers skip-to", "handlers remove"),
        *("sources list", "sources show", "events list", "events show", "events schema"),
        *("refused list", "refused show", "refused release", "doctor", "reprocess", "alerts list", "alerts test"),
        *("quarantine list", "quarantine show", "quarantine discard"),
        *("dead-letters list", "dead-letters groups", "dead-letters show", "dead-letters retry"),
        *("dead-letters discard", "replay start", "replay list", "replay resume", "replay cancel"),
        *("retention list", "retention run", "classify"),
        *("links unsubscribe", "links preferences", "contacts subscribe"),
        *("contacts show", "contacts import", "contacts erase", "contacts export-person"),
        *("contacts list", "contacts export", "contacts add", "contacts edit", "contacts tag", "contacts untag"),
        "contacts unsubscribe",
        *("suppressions list", "suppressions show", "suppressions add", "suppressions lift"),
        *("suppressions import", "suppressions sync"),
        *("suppressions incidents list", "suppressions incidents confirm", "suppressions incidents release"),
        *("suppressions incidents declare", "policy show", "policy preview", "policy rates"),
        *("topics list", "topics show", "topics add", "topics edit", "topics archive"),
        *("sends list", "sends show", "sends retry", "sends cancel", "sends pause", "sends resume", "sends accounts"),
        *("broadcast start", "broadcast list", "broadcast show", "broadcast pause", "broadcast resume"),
        *("broadcast cancel", "templates list", "templates preview", "send-test"),
        *("segments list", "segments show", "segments save", "segments preview", "segments delete"),
    }


async def test_init_then_check(receiver: Receiver, tmp_path: Path) -> None:
    """what init writes passes check once a database and a source are filled in"""
    made = await receiver("init")
    path = tmp_path / "receiver.toml"
    assert made.code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    refused = await receiver("check")
    assert refused.code == 2
    assert "database: is missing" in refused.err
    assert "sources: is missing" in refused.err
    assert "secret_key" not in refused.err
    text = path.read_text().replace('# database = "', 'database = "')
    before, table, after = text.partition("# [sources.postmark]\n# provider")
    path.write_text(
        before + table.replace("# ", "") + after.replace('# password = ["..."]', f'password = "{PASSWORD}"', 1)
    )
    done = await receiver("check")
    assert done.code == 0, done.err
    assert "ok  source postmark: Postmark, http://127.0.0.1:8080/webhooks/postmark" in done.out
    assert PASSWORD not in done.out + done.err
    assert tomllib.loads(path.read_text())["secret_key"] not in done.out + done.err


async def test_beside_a_demo(receiver: Receiver, database: str, tmp_path: Path) -> None:
    """init takes the demo's key, so that commands beside it go on; check is about the file, not about the demo"""
    data_dir = tmp_path / ".receiver"
    run = this_run(url="http://127.0.0.1:1", admin_url="http://127.0.0.1:1", database=database, demo=True)
    with kept(data_dir, run):
        demo = make_demo(data_dir)
        ada = ("suppressions", "add", "ada@example.com")
        assert (await receiver(*ada)).code == 0
        made = await receiver("init")
        assert "the demo's secret_key" in made.out
        assert tomllib.loads((tmp_path / "receiver.toml").read_text())["secret_key"] == demo.secret_key
        assert (await receiver(*ada)).code == 0
        refused = await receiver("check")
        assert ("database: is missing" in refused.err, "sources: is missing" in refused.err) == (True, True)
        assert (await receiver("init", "--force", "--no-secret-key")).out.splitlines()[0] == "wrote receiver.toml"


async def test_init_shows_everything(receiver: Receiver, tmp_path: Path) -> None:
    """every setting and every provider that is asked for with its own settings stands in the file, all of it TOML"""
    chosen = [option for name in providers() for option in ("--provider", name)]
    assert (await receiver("init", *chosen)).code == 0
    text = (tmp_path / "receiver.toml").read_text()
    lines = [line.lstrip("# ") for line in text.splitlines() if re.match(r"(# ){0,2}(\w+ = |\[)", line)]
    values = tomllib.loads("\n".join(lines))
    assert set(values) == set(Settings.model_fields)
    for name, provider in providers().items():
        own = set(provider.Settings.model_fields) - set(SourceSettings.model_fields)
        again = set(provider.Settings.__annotations__)  # a shared one that it needs, such as the URL that is signed
        assert set(values["sources"][name]) == own | again | {"provider"}
    assert RetentionSettings.model_validate(values["retention"]) == RetentionSettings()
    assert set(values["retention"]) == set(RetentionSettings.model_fields)
    assert PrivacySettings.model_validate(values["privacy"]).drop
    assert values["address_key"] == "..."


async def test_init_keeps_what_is_there(receiver: Receiver, tmp_path: Path) -> None:
    """init replaces no file unless told to, and can leave the key to the environment"""
    (tmp_path / "receiver.toml").write_text("port = 1")
    kept_ = await receiver("init")
    assert kept_.code == 1
    assert "--force" in kept_.err
    assert (tmp_path / "receiver.toml").read_text() == "port = 1"
    assert (await receiver("init", "--force", "--no-secret-key")).code == 0
    text = (tmp_path / "receiver.toml").read_text()
    assert "RECEIVER_SECRET_KEY_FILE" in text
    assert "secret_key" not in tomllib.loads(text)
    assert (tmp_path / "receiver.toml").stat().st_mode & 0o077 == 0


async def test_a_file_that_is_replaced_hands_its_keys_on(receiver: Receiver, tmp_path: Path) -> None:
    """with another key nothing stored could be read and no suppressed address be known: init --force keeps it"""
    path = tmp_path / "receiver.toml"
    data_dir = tmp_path / ".receiver"
    data_dir.mkdir()
    make_demo(data_dir)  # its key is not that of the file
    keys = {"secret_key": KEY, "previous_secret_keys_file": ["old.key"], "address_key": f'{KEY} "the first"'}
    path.write_text("port = 1\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in keys.items()))
    made = await receiver("init", "--force")
    assert "with the secret_key of the file that it replaces" in made.out.splitlines()[0]
    assert tomllib.loads(path.read_text()) == keys
    path.write_text(f'secret_key = "{KEY}')  # not TOML
    refused = await receiver("init", "--force")
    assert (refused.code, "its secret_key would be lost" in refused.err, KEY in refused.err) == (1, True, False)
    assert KEY in path.read_text()


@pytest.mark.parametrize("name", ["serve", "check", "work"])
async def test_wrong_configuration(receiver: Receiver, tmp_path: Path, name: str) -> None:
    """serve, work and check refuse a wrong configuration with every problem, exit 2, and without a traceback"""
    (tmp_path / "receiver.toml").write_text(
        f"secret_key = '{CANARY}'\ndatabase = 'postgresql://u:{CANARY}@h:{CANARY}/d'\nprt = 1\n"
        f"[sources.shop]\nprovider = 'postmark'\npasword = '{CANARY}'\n"
    )
    for options in ((), ("--debug",)):
        ended = await receiver(name, *options)
        assert ended.code == 2
        assert ("Traceback" in ended.err) is bool(options)
        assert CANARY.lower() not in (ended.out + ended.err).lower()
        for key in ("secret_key", "database", "prt"):
            assert f"{key}: " in ended.err
        assert ("sources.shop.pasword" in ended.err) is (name != "work")
        assert "is missing" not in ended.err


async def test_serve_makes_nothing_up(receiver: Receiver, tmp_path: Path) -> None:
    """plain serve without settings refuses, and leaves nothing behind; it names the demo"""
    ended = await receiver("serve")
    assert ended.code == 2
    assert "--demo" in ended.err
    assert not await asyncio.to_thread(os.listdir, tmp_path)


async def test_config_may_stand_anywhere(receiver: Receiver, tmp_path: Path) -> None:
    """--config is understood before and after the command"""
    path = tmp_path / "elsewhere.toml"
    path.write_text(
        f'secret_key = "{KEY}"\ndatabase = "embedded"\n[sources.a]\nprovider = "postmark"\npassword = "{PASSWORD}"'
    )
    for arguments in (
        ("--config", str(path), "check"),
        ("check", "--config", str(path)),
        ("check", f"--config={path}"),
    ):
        assert (await receiver(*arguments)).code == 0
    assert (await receiver("check", "--config", str(tmp_path / "gone.toml"))).code == 2


async def test_check_tells_all_that_is_wrong_with_an_account(receiver: Receiver, tmp_path: Path) -> None:
    """a wrong name or transport hides nothing else that can be known; what another transport knows is no fault then"""
    (tmp_path / "receiver.toml").write_text(
        f'secret_key = "{KEY}"\ndatabase = "embedded"\n[sources.a]\nprovider = "postmark"\npassword = "{PASSWORD}"\n'
        '[accounts.Main]\ntransport = "smpt"\nfrom = "nobody"\nhots = "x"\nhost = "x"\nserver_token_file = "gone"\n'
        "[accounts.other]\nper_day = 0\n"
    )
    ended = await receiver("check")
    faults = [line.strip() for line in ended.err.splitlines()[1:] if not line.startswith("      ")]
    assert [line.partition(": ")[0] for line in faults] == [
        "accounts.Main",
        "accounts.Main.transport",
        "accounts.Main.server_token_file",
        "accounts.Main.from",
        "accounts.Main.hots",
        "accounts.other.transport",
        "accounts.other.from",
        "accounts.other.per_day",
    ]
    assert "hots: is not a setting (did you mean host?)" in ended.err


async def test_check_warns(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """check warns of what works and should be known"""
    path = tmp_path / "receiver.toml"
    path.write_text(
        f'secret_key = "{KEY}"\ndatabase = "embedded"\n[sources.a]\nprovider = "postmark"\npassword = "{PASSWORD}"'
    )
    path.chmod(0o644)
    monkeypatch.setenv("RECEIVER_ADMIN_HOST", "0.0.0.0")
    monkeypatch.setenv("RECEIVER_HOST", "0.0.0.0")
    ended = await receiver("check")
    assert ended.code == 0
    for word in ("embedded", "admin_host", "public_url", "chmod 600"):
        assert any(word in line for line in ended.out.splitlines() if line.startswith("WARNING")), word


async def test_check_warns_of_addresses(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """check warns where only a proxy can call, and its word on addresses is not believed; or everybody's is"""
    (tmp_path / "receiver.toml").write_text(
        f'secret_key = "{KEY}"\ndatabase = "embedded"\n'
        f'[sources.a]\nprovider = "postmark"\npassword = "{PASSWORD}"\nallow_from = "192.0.2.0/24"'
    )
    assert "name it in trusted_proxies" in (await receiver("check")).out
    monkeypatch.setenv("RECEIVER_TRUSTED_PROXIES", "127.0.0.1")
    assert "trusted_proxies" not in (await receiver("check")).out
    monkeypatch.setenv("RECEIVER_TRUSTED_PROXIES", "127.0.0.1, 0.0.0.0/0")
    assert "anybody can claim any address" in (await receiver("check")).out


async def test_check_shows_how_a_handler_is_run(receiver: Receiver, tmp_path: Path) -> None:
    """check says what an operator has changed about a handler, and what is wrong with it"""
    (tmp_path / "tell.py").write_text(
        "from receiver import handler\n@handler(timeout=5)\nasync def tell(event, ctx): ...\n"
    )
    path = tmp_path / "receiver.toml"
    path.write_text(
        f'secret_key = "{KEY}"\ndatabase = "embedded"\nhandlers_dir = "{tmp_path}"\n'
        f'[sources.a]\nprovider = "postmark"\npassword = "{PASSWORD}"\n[handlers.tell.run]\nordered = true\n'
    )
    ended = await receiver("check", f"--config={path}")
    assert f"handler tell: {tmp_path}/tell.py (timeout 5, ordered)" in ended.out
    with path.open("a") as file:
        file.write("concurrency = 99\n")
    ended = await receiver("check", f"--config={path}")
    assert ended.code == 2
    assert "handlers.tell.run.concurrency" in ended.err
    assert "batches that one worker runs at the same time" in ended.err


async def test_migrate_and_check_database(receiver: Receiver, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """migrate prepares an empty database, can be repeated, and check --database tells whether it was run"""
    connection = await asyncpg.connect(database)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("RECEIVER_SECRET_KEY", KEY)
    monkeypatch.setenv("RECEIVER_SOURCES__A__PROVIDER", "postmark")
    monkeypatch.setenv("RECEIVER_SOURCES__A__PASSWORD", PASSWORD)
    before = await receiver("check", "--database")
    assert before.code == 1
    assert "receiver migrate" in before.err
    listing = await receiver("events", "list")
    assert listing.code == 1
    assert "receiver migrate" in listing.err
    assert "is in place" in (await receiver("migrate")).out
    assert "already" in (await receiver("migrate")).out
    assert "ok  schema: version" in (await receiver("check", "--database")).out


async def test_database_url(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """the database's URL is printed for psql, its password only when asked for"""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{CANARY}@h/d")
    hidden = await receiver("database")
    assert (hidden.code, hidden.out) == (0, "postgresql://u@h/d\n")
    assert (await receiver("database", "--reveal")).out == f"postgresql://u:{CANARY}@h/d\n"


async def test_database_away(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """a database that cannot be reached is one line and exit 1, and its password is not in it"""
    monkeypatch.setenv("RECEIVER_DATABASE", f"postgresql://someone:{CANARY}@127.0.0.1:1/d")
    for arguments in (
        ("events", "list"),
        ("migrate",),
        ("handlers",),
        ("dead-letters",),
        ("quarantine",),
        ("refused",),
    ):
        ended = await receiver(*arguments)
        assert ended.code == 1
        assert ended.err.startswith("receiver: cannot connect to postgresql://someone@127.0.0.1:1/d: ")
        assert ended.err.count("\n") == 1
        assert CANARY not in ended.err


async def test_embedded_database_away(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """with the embedded database, a command says that the service has to run"""
    monkeypatch.setenv("RECEIVER_DATABASE", "embedded")
    ended = await receiver("events", "list")
    assert ended.code == 1
    assert "receiver serve" in ended.err


async def test_unexpected_fault(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """a fault nobody foresaw shows its kind and no text, which could quote a secret"""

    def fail(*_: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr("receiver.cli.place.find_place", fail)
    ended = await receiver("events", "list")
    assert ended.code == 1
    assert "RuntimeError" in ended.err
    assert "Traceback" not in ended.err
    assert CANARY not in ended.err


async def test_health(receiver: Receiver, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """health finds the service by its run file or by the settings, and fails when there is none"""
    monkeypatch.setenv("RECEIVER_ADMIN_PORT", "1")
    assert (await receiver("health")).code == 1
    async with running(database, play("postmark", tmp_path)) as service:
        run = this_run(url=service.url, admin_url=service.admin_url, database=database, demo=False)
        with kept(tmp_path / ".receiver", run):
            assert (await receiver("health")).code == 0
            assert (await receiver("health", "--live")).code == 0
        assert (await receiver("health")).code == 1
        monkeypatch.setenv("RECEIVER_ADMIN_PORT", service.admin_url.rpartition(":")[2])
        assert (await receiver("health")).code == 0
    assert (await receiver("health")).code == 1


async def test_health_of_workers(receiver: Receiver, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """a worker of a host whose name begins alike is none of this host's"""
    monkeypatch.setenv("RECEIVER_DATABASE", database)
    monkeypatch.setattr("socket.gethostname", lambda: "worker-1")
    sql = await asyncpg.connect(database)
    add = "INSERT INTO workers VALUES (gen_random_uuid(), $1, '{}', now(), now() + interval '1 minute')"
    await sql.execute(add, "worker-10:7")
    ended = await receiver("health", "--worker")
    assert ended.code == 1
    assert "no worker runs on worker-1" in ended.err
    await sql.execute(add, "worker-1:8")
    await sql.close()
    ended = await receiver("health", "--worker")
    assert (ended.code, ended.out) == (0, "ok: worker-1:8\n")


async def test_run_file_finds_database(receiver: Receiver, database: str, tmp_path: Path) -> None:
    """beside a running service, commands need no setting at all; its file is private"""
    run = this_run(url="http://127.0.0.1:1", admin_url="http://127.0.0.1:1", database=database, demo=False)
    with kept(tmp_path / ".receiver", run):
        assert (tmp_path / ".receiver" / f"run-{os.getpid()}.json").stat().st_mode & 0o077 == 0
        assert (await receiver("events", "list", "--json")).code == 0
    assert (await receiver("events", "list", "--json")).code == 2


def test_stale_run_file(tmp_path: Path) -> None:
    """a run file whose process has ended, or whose number another process has now, is ignored"""
    mine = this_run(url="http://a", admin_url="http://b", database="postgresql:///x", demo=False)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for stale in ({"pid": child.pid}, {"born": "1"}):
        with kept(tmp_path, type(mine)(**{name: getattr(mine, name) for name in mine.__slots__} | stale)):
            assert find_runs(tmp_path) == []
    with kept(tmp_path, mine):
        assert find_runs(tmp_path) == [mine]
        (tmp_path / f"run-{mine.pid}.json").write_text('{"pid": 1}')
        assert find_runs(tmp_path) == []


def test_run_file_of_another(tmp_path: Path) -> None:
    """a process takes away its own run file and not what another one with its number has written since"""
    first = this_run(url="http://a", admin_url="http://b", database="postgresql:///x", demo=False)
    second = this_run(url="http://c", admin_url="http://d", database="postgresql:///x", demo=False)
    with kept(tmp_path, second):
        with kept(tmp_path, first), kept(tmp_path, second):
            pass
        assert find_runs(tmp_path) == []
        with kept(tmp_path, second):
            pass
    with kept(tmp_path, first):
        write = kept(tmp_path, second)
        write.__enter__()
    assert find_runs(tmp_path) == [second]


def test_run_file_spares_other_directories(tmp_path: Path) -> None:
    """a directory with other files, perhaps mistyped, gets no run file and no lock"""
    (tmp_path / "thesis.tex").touch()
    run = this_run(url="http://a", admin_url="http://b", database="postgresql:///x", demo=False)
    with pytest.raises(FileExistsError), kept(tmp_path, run):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_who_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """a user id without a name, as in a container, is named by its number"""

    def nameless() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert who() == f"uid {os.getuid()}"


def test_config_error_is_outside() -> None:
    """no handler of ordinary errors can swallow a wrong configuration"""
    from receiver.errors import ReceiverError

    assert not issubclass(ConfigError, ReceiverError)


def test_documents_name_everything() -> None:
    """the documents name every setting, every command and every option of simulate"""
    docs = Path(__file__).parents[1] / "docs"
    configuration, cli = (docs / "configuration.md").read_text(), (docs / "cli.md").read_text()
    for model in (Settings, SourceSettings, RetentionSettings, AlertSettings, PrivacySettings, PolicySettings):
        for name in model.model_fields:
            assert f"`{name}`" in configuration, name
    for path, one in COMMANDS.items():
        assert f"receiver {path[0]}" in cli
        assert path[-1] in cli
        for option in one.params if path == ("simulate",) else ():
            assert option.name in ("help", "source", "type_") or option.opts[0] in cli, option.opts
