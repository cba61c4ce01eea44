"""The configuration: who wins, what is refused and in which words, and that no value is ever repeated."""

import contextlib
import json
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from receiver.contract import SourceSettings, World
from receiver.demo import make_demo, read_demo, with_demo
from receiver.errors import ConfigError, Problem
from receiver.providers import providers
from receiver.providers.postmark import PostmarkSettings
from receiver.settings import (
    EMBEDDED,
    Settings,
    hide_password,
    load_settings,
    missing_settings,
    without_password,
)
from receiver.sources import Source, bind_sources, webhook_url

KEY = "k3y-0123456789-abcdefghijklmnopqrstuvwxyz"
PASSWORD = "Zz9-postmark-password-of-the-test"
CANARY = "cAnArY-7f3e9b21d4"

Write = Callable[[str], Path]


async def no_fetch(url: str, *, max_bytes: int = 65536) -> bytes:
    raise AssertionError(f"nothing may be fetched while settings are read: {url} {max_bytes}")


WORLD = World(fetch=no_fetch)


@pytest.fixture
def toml(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "receiver.toml"
        path.write_text(text)
        return path

    return write


@contextlib.contextmanager
def refused() -> Iterator[dict[str, Problem]]:
    """The problems by key; neither they nor the traceback hold a canary."""
    found: dict[str, Problem] = {}
    with pytest.raises(ConfigError) as caught:
        yield found
    found |= {problem.key.partition(" (from")[0]: problem for problem in caught.value.problems}
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert CANARY.lower() not in shown.lower()
    assert all(problem.wrong and problem.right for problem in caught.value.problems)


def bound(path: Path, environ: dict[str, str] | None = None) -> dict[str, Source]:
    return bind_sources(load_settings(path, environ or {}), WORLD)


def passwords(settings: SourceSettings) -> list[str]:
    assert isinstance(settings, PostmarkSettings)
    return [one.get_secret_value() for one in settings.password]


def source(text: str = "") -> str:
    return f'[sources.shop]\nprovider = "postmark"\n{text}'


# Who wins ---------------------------------------------------------------------------------------------------


def test_environment_wins(toml: Write) -> None:
    """the environment wins over the file, and the file over the defaults"""
    path = toml('port = 9001\nadmin_port = 9002\nlog_format = "json"\n')
    settings = load_settings(path, {"RECEIVER_PORT": "9100", "receiver_log_level": "DEBUG"})
    assert (settings.port, settings.admin_port, settings.host) == (9100, 9002, "127.0.0.1")
    assert (settings.log_format, settings.log_level) == ("json", "debug")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "postgresql://file/d"),
        ({"DATABASE_URL": "postgres://url/d"}, "postgres://url/d"),
        ({"DATABASE_URL": "postgres://url/d", "RECEIVER_DATABASE": "postgresql://own/d"}, "postgresql://own/d"),
        ({"DATABASE_URL": ""}, "postgresql://file/d"),
    ],
)
def test_database_url(toml: Write, environ: dict[str, str], expected: str) -> None:
    """DATABASE_URL stands above the file and below RECEIVER_DATABASE"""
    database = load_settings(toml('database = "postgresql://file/d"'), environ).database
    assert database is not None
    assert database.get_secret_value() == expected


def test_config_named_by_environment(tmp_path: Path) -> None:
    """RECEIVER_CONFIG names the file, and a file that somebody named has to be there"""
    path = tmp_path / "other.toml"
    path.write_text("port = 1234")
    assert load_settings(None, {"RECEIVER_CONFIG": str(path)}).port == 1234
    with refused() as problems:
        load_settings(None, {"RECEIVER_CONFIG": str(tmp_path / "gone.toml")})
    assert "is not there" in problems[str(tmp_path / "gone.toml")].wrong


def test_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """without file and environment there is no database and no key, and both are asked for"""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {})
    assert [problem.key for problem in missing_settings(settings)] == ["database", "secret_key"]
    assert [problem.key for problem in missing_settings(settings, secret_key=False)] == ["database"]


def test_source_from_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a source can be configured by variables alone, whatever their case"""
    monkeypatch.chdir(tmp_path)
    environ = {"RECEIVER_SOURCES__SHOP__PROVIDER": "postmark", "RECEIVER_SOURCES__Shop__Password": PASSWORD}
    found = bind_sources(load_settings(None, environ), WORLD)
    assert found["shop"].provider.name == "postmark"


def test_environment_finds_dashed_source(toml: Write) -> None:
    """a variable reaches a source whose name has a dash, which no variable's name can have"""
    path = toml('[sources.my-shop]\nprovider = "postmark"\n')
    found = bound(path, {"RECEIVER_SOURCES__MY_SHOP__PASSWORD": PASSWORD})
    assert list(found) == ["my-shop"]


def test_tables_as_json(toml: Write) -> None:
    """a whole table can be given as JSON and refined by a variable for one key"""
    environ = {
        "RECEIVER_SOURCES": json.dumps({"shop": {"provider": "postmark", "stream": "marketing"}}),
        "RECEIVER_SOURCES__SHOP__STREAM": "transactional",
        "RECEIVER_SOURCES__SHOP__PASSWORD": PASSWORD,
    }
    assert bound(toml(""), environ)["shop"].settings.stream == "transactional"


def test_values_stay_text(toml: Write) -> None:
    """a password of digits, or one that looks like JSON, stays the text it is"""
    for password in ("1234567890123456789012", "[no json, but a password]", "with, commas, in the middle"):
        settings = bound(toml(source()), {"RECEIVER_SOURCES__SHOP__PASSWORD": password})["shop"].settings
        assert passwords(settings) == [password]


def test_several_secrets_from_environment(toml: Write) -> None:
    """several live secrets come from one variable as a JSON list"""
    environ = {"RECEIVER_SOURCES__SHOP__PASSWORD": json.dumps([PASSWORD, f"new-{PASSWORD}"])}
    settings = bound(toml(source()), environ)["shop"].settings
    assert passwords(settings) == [PASSWORD, f"new-{PASSWORD}"]


def test_lists_by_comma(toml: Write) -> None:
    """a list that holds no secrets may be separated by commas"""
    assert load_settings(toml(""), {"RECEIVER_HANDLER_PACKAGES": "one, two"}).handler_packages == ["one", "two"]
    assert load_settings(toml(""), {"RECEIVER_HANDLER_PACKAGES": '["one"]'}).handler_packages == ["one"]


def test_tables_and_networks_from_environment(toml: Write) -> None:
    """a source's table of words and its networks come from the environment as from the file"""
    given = {
        "RECEIVER_SOURCES__SHOP__TYPES": '{"New Word": "deferred"}',
        "RECEIVER_SOURCES__SHOP__ALLOW_FROM": "192.0.2.7, 2001:db8::/32",
        "RECEIVER_TRUSTED_PROXIES": '["127.0.0.1"]',
    }
    path = toml(source(f"password = '{PASSWORD}'"))
    shop = bound(path, given)["shop"].settings
    assert shop.types == {"New Word": "deferred"}
    assert list(map(str, shop.allow_from)) == ["192.0.2.7/32", "2001:db8::/32"]
    assert list(map(str, load_settings(path, given).trusted_proxies)) == ["127.0.0.1/32"]


def test_kubernetes_variables(toml: Write) -> None:
    """what Kubernetes sets for a service called receiver is ignored, or explained where it hits a setting"""
    links = {"RECEIVER_SERVICE_HOST": "10.0.0.1", "RECEIVER_PORT_80_TCP_ADDR": "10.0.0.1"}
    assert load_settings(toml(""), links).port == 8080
    with refused() as problems:
        load_settings(toml(""), {"RECEIVER_PORT": "tcp://10.0.0.1:80"})
    assert "enableServiceLinks" in problems["port"].wrong


def test_sizes_and_paths(toml: Write) -> None:
    """sizes take units, and the URL of a source follows public_url"""
    path = toml(
        'max_in_flight = "2MiB"\npublic_url = "https://hooks.example.net/"\n' + source(f'password = "{PASSWORD}"')
    )
    settings = load_settings(path, {})
    assert settings.max_in_flight == 2 << 20
    assert webhook_url(settings, "shop") == "https://hooks.example.net/webhooks/shop"
    assert bind_sources(settings, WORLD)["shop"].settings.public_url == "https://hooks.example.net/webhooks/shop"


# Secrets in files -------------------------------------------------------------------------------------------


def test_secret_files(toml: Write, tmp_path: Path) -> None:
    """every secret may stand in a file, and loses the newline at its end and nothing else"""
    files = {"key": f"{KEY}\n", "db": "postgresql://u:p@h/d\r\n", "password": f" {PASSWORD} \n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode())
    environ = {
        "RECEIVER_SECRET_KEY_FILE": str(tmp_path / "key"),
        "RECEIVER_DATABASE_FILE": str(tmp_path / "db"),
        "RECEIVER_SOURCES__SHOP__PASSWORD_FILE": str(tmp_path / "password"),
    }
    settings = load_settings(toml(source()), environ)
    assert settings.secret_key is not None
    assert settings.database is not None
    assert settings.secret_key.get_secret_value() == KEY
    assert settings.database.get_secret_value() == "postgresql://u:p@h/d"
    found = bind_sources(settings, WORLD)["shop"].settings
    assert passwords(found) == [f" {PASSWORD} "]


def test_secret_file_in_toml(toml: Write, tmp_path: Path) -> None:
    """the file may name files too, and a list of files gives several live secrets"""
    for number in (1, 2):
        (tmp_path / f"p{number}").write_text(f"{PASSWORD}{number}\n")
    path = toml(source(f'password_file = ["{tmp_path}/p1", "{tmp_path}/p2"]'))
    settings = bound(path)["shop"].settings
    assert passwords(settings) == [f"{PASSWORD}1", f"{PASSWORD}2"]


def test_variable_replaces_file_below(toml: Write, tmp_path: Path) -> None:
    """a secret from the environment replaces the one below it in whichever form either is given"""
    (tmp_path / "p").write_text(PASSWORD)
    below = toml(source(f'password = "{CANARY}-old-password"'))
    over = bound(below, {"RECEIVER_SOURCES__SHOP__PASSWORD_FILE": str(tmp_path / "p")})["shop"].settings
    assert passwords(over) == [PASSWORD]
    below = toml(source('password_file = "/nowhere"'))
    over = bound(below, {"RECEIVER_SOURCES__SHOP__PASSWORD": PASSWORD})["shop"].settings
    assert passwords(over) == [PASSWORD]


def test_secret_file_problems(toml: Write, tmp_path: Path) -> None:
    """a secret's file that is missing, unreadable or not alone is named by its key, and its path not repeated"""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with refused() as problems:
        load_settings(toml("secret_key_file = 7"), {"RECEIVER_DATABASE_FILE": f"/nowhere/{CANARY}"})
    assert "is not there" in problems["database_file"].wrong
    assert "is not the path" in problems["secret_key_file"].wrong
    both = toml(source(f'password = "{CANARY}-password"\npassword_file = "{tmp_path}/binary"'))
    with refused() as problems:
        bound(both)
    assert "twice" in problems["sources.shop.password"].wrong
    with refused() as problems:
        bound(toml(source(f'password_file = "{tmp_path}/binary"')))
    assert "not UTF-8" in problems["sources.shop.password_file"].wrong


# Refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "key", "wrong"),
    [
        ('prot = "x"', "prot", "did you mean port?"),
        (f"[server]\nx = '{CANARY}'", "server", "is not a setting"),
        (f"port = '{CANARY}'", "port", "integer"),
        ("port = 70000", "port", "65535"),
        ("admin_port = -1", "admin_port", "0"),
        ("host = 'two words'", "host", "not a host name"),
        (f"database = '{CANARY}'", "database", "not the address"),
        (f"database = 'mysql://u:{CANARY}@h/d'", "database", "not the address"),
        (f"database = 'postgresql://u:{CANARY}/x@h:{CANARY}/d'", "database", "not the address"),
        (f"database = 'postgresql+asyncpg://u:{CANARY}@h/d'", "database", "names a driver"),
        ("database = ''", "database", "is empty"),
        (f"secret_key = '{CANARY}'", "secret_key", f"has only {len(CANARY)} characters"),
        ("secret_key = ''", "secret_key", "is empty"),
        (f"secret_key = '{'ab' * 20}'", "secret_key", "can be guessed"),
        (f"public_url = 'https://u:{CANARY}@h'", "public_url", "not the start of a URL"),
        ("public_url = 'hooks.example.net'", "public_url", "not the start of a URL"),
        ("max_in_flight = '1kB'", "max_in_flight", "greater"),
        (f"max_in_flight = '{CANARY}'", "max_in_flight", "byte"),
        ("body_timeout = 0", "body_timeout", "greater"),
        (f"trusted_proxies = ['127.0.0.1', '{CANARY}']", "trusted_proxies (number 2)", "not an address or a network"),
        (f"proxy_header = '{CANARY}: x'", "proxy_header", "not the name of a header"),
        (f"log_level = '{CANARY}'", "log_level", "'debug'"),
        (f"handlers = '{CANARY}'", "handlers", "dictionary"),
        (f"sources = ['{CANARY}']", "sources", "dictionary"),
    ],
)
def test_refused_settings(toml: Write, written: str, key: str, wrong: str) -> None:
    """a wrong value is refused with its key, what is wrong and what is right, and is not repeated"""
    with refused() as problems:
        load_settings(toml(written), {})
    assert list(problems) == [key]
    assert wrong in problems[key].wrong


def test_refused_toml(toml: Write) -> None:
    """a file that is not TOML is refused with the place, without its content"""
    path = toml(f'a = 1\nsecret_key = {CANARY}"')
    with refused() as problems:
        load_settings(path, {})
    assert "line 2" in problems[str(path)].wrong


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("RECEIVER_PROT", "prot"),
        ("RECEIVER_PORT__X", "port__x"),
        ("RECEIVER_SOURCES", "sources"),
        ("RECEIVER_SOURCES__SHOP", "sources.shop"),
        ("RECEIVER___X", "__x"),
    ],
)
def test_refused_variables(toml: Write, variable: str, key: str) -> None:
    """a mistyped variable is an error that names it"""
    with refused() as problems:
        load_settings(toml(""), {variable: CANARY})
    assert list(problems) == [key]
    assert variable in str(problems[key])


def test_all_at_once(toml: Write) -> None:
    """every fault of the settings is told at once"""
    with refused() as problems:
        load_settings(toml(f"port = 0.5\nhost = ''\nsecret_key = '{CANARY}'"), {"RECEIVER_LOG_LEVEL": "loud"})
    assert set(problems) == {"port", "host", "secret_key", "log_level"}


@pytest.mark.parametrize(
    ("written", "key", "wrong"),
    [
        ("", "sources", "no event could ever arrive"),
        ("[sources.shop]", "sources.shop.provider", "is missing"),
        ("[sources.shop]\nprovider = 'postmrk'", "sources.shop.provider", "did you mean postmark?"),
        ("[sources.shop]\nprovider = 5", "sources.shop.provider", "not a provider"),
        ("[sources.Shop]\nprovider = 'postmark'", "sources.Shop", "not a name"),
        (f"[sources.{'x' * 64}]\nprovider = 'postmark'", f"sources.{'x' * 64}", "not a name"),
        ('[sources."a/b"]\nprovider = "postmark"', "sources.a/b", "not a name"),
        (source(), "sources.shop", "nothing would prove the sender"),
        (source("password = ''"), "sources.shop.password", "is empty"),
        (source(f"password = '{CANARY[:9]}'"), "sources.shop.password", "has only 9 characters"),
        (source("password = '<password>'"), "sources.shop.password", "published"),
        (source("password = 7"), "sources.shop.password", "list"),
        (source(f"pasword = '{CANARY}'"), "sources.shop.pasword", "did you mean password?"),
        (source(f"tolerance = '{CANARY}'"), "sources.shop.tolerance", "number"),
        (source(f"allow_from = ['::1', '{CANARY}']"), "sources.shop.allow_from (number 2)", "not an address"),
        (source(f"types = {{ new = '{CANARY}' }}"), "sources.shop.types.new", "'deferred'"),
        (source(f"types = '{CANARY}'"), "sources.shop.types", "not a table"),
        (source(f"password = ['{PASSWORD}', '']"), "sources.shop.password (number 2)", "is empty"),
    ],
)
def test_refused_sources(toml: Write, written: str, key: str, wrong: str) -> None:
    """a source that could not prove its sender, or says what nobody understands, is refused"""
    with refused() as problems:
        bound(toml(written))
    assert list(problems) == [key]
    assert wrong in problems[key].wrong


def test_all_sources_at_once(toml: Write) -> None:
    """the faults of all sources are told at once, and the provider's name helps"""
    with refused() as problems:
        bound(toml("[sources.a]\nprovider = 'x'\n[sources.b]\nprovider = 'postmark'\n[sources.C]\n"))
    assert set(problems) == {"sources.a.provider", "sources.b", "sources.C"}
    assert all(name in problems["sources.a.provider"].right for name in providers())


def test_no_value_in_repr(toml: Write) -> None:
    """settings and sources show no secret in their repr"""
    path = toml(
        f'database = "postgresql://u:{CANARY}@h/d"\nsecret_key = "{CANARY}-{KEY}"\n'
        + source(f'password = "{CANARY}-{PASSWORD}"')
        + f'\n[handlers.x]\ntoken = "{CANARY}"\n'
    )
    settings = load_settings(path, {})
    found = bind_sources(settings, WORLD)
    for shown in (repr(settings), str(settings), repr(found), str(found["shop"].settings)):
        assert CANARY not in shown


@pytest.mark.parametrize(
    ("url", "shown", "usable"),
    [
        (
            f"postgresql://u:{CANARY}@h:5433/d?sslmode=require",
            "postgresql://u@h:5433/d",
            "postgresql://u@h:5433/d?sslmode=require",
        ),
        (f"postgresql://u@h/d?password={CANARY}", "postgresql://u@h/d", "postgresql://u@h/d"),
        (
            "postgresql://u@/d?host=%2Frun%2Fpg&port=5432",
            "postgresql://u@/run/pg/d",
            "postgresql://u@/d?host=%2Frun%2Fpg&port=5432",
        ),
        (
            f"postgresql://u:{CANARY}@one:5433,other/d",
            "postgresql://u@one:5433,other/d",
            "postgresql://u@one:5433,other/d",
        ),
        (f"postgresql://u:{CANARY}/x@h:{CANARY}/d", "(a database URL)", "(a database URL)"),
    ],
)
def test_without_password(url: str, shown: str, usable: str) -> None:
    """a database is shown without its password, wherever the URL has it"""
    assert without_password(url) == shown
    assert hide_password(url) == usable


# The demo ---------------------------------------------------------------------------------------------------


def test_demo_made_once(tmp_path: Path) -> None:
    """the demo has a source for every provider, keeps its secrets, and only its owner may read them"""
    demo = make_demo(tmp_path)
    assert make_demo(tmp_path) == demo == read_demo(tmp_path)
    settings = with_demo(Settings(), demo)
    assert set(bind_sources(settings, WORLD)) == set(providers()) == set(demo.keys)
    assert settings.embedded
    assert not missing_settings(settings)
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "demo.json", tmp_path / "demo")} == {0}


def test_demo_gains_providers(tmp_path: Path) -> None:
    """a provider that is new joins an older demo, whose secrets stay"""
    demo = make_demo(tmp_path)
    kept = json.loads((tmp_path / "demo.json").read_text())
    del kept["sources"]["postmark"], kept["keys"]["postmark"]
    (tmp_path / "demo.json").write_text(json.dumps(kept))
    grown = make_demo(tmp_path)
    assert grown.secret_key == demo.secret_key
    assert grown.sources["mailgun"] == demo.sources["mailgun"]
    assert grown.sources["postmark"] != demo.sources["postmark"]


def test_demo_moves_with_its_directory(tmp_path: Path) -> None:
    """a data directory can be moved: no path in the demo leads to where it was"""
    (tmp_path / "old").mkdir()
    make_demo(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    demo = read_demo(tmp_path / "new")
    assert demo is not None
    assert str(tmp_path / "old") not in str(demo.sources) + str(demo.keys)
    bind_sources(with_demo(Settings(), demo), WORLD)


def test_demo_leaves_what_is_configured(toml: Write, tmp_path: Path) -> None:
    """the demo replaces nothing that the configuration says, but does not trust DATABASE_URL"""
    demo = make_demo(tmp_path)
    path = toml(f'secret_key = "{KEY}"\n' + '[sources.postmark]\nprovider = "postmark"\n' + f'password = "{PASSWORD}"')
    settings = with_demo(load_settings(path, {"DATABASE_URL": "postgresql://other/d"}), demo)
    assert settings.embedded
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == KEY
    assert settings.sources["postmark"]["password"] == PASSWORD
    own = with_demo(load_settings(path, {"RECEIVER_DATABASE": "postgresql://own/d"}), demo)
    assert not own.embedded


def test_plain_settings_make_nothing_up(toml: Write) -> None:
    """without --demo no secret, source or database appears from nowhere, also beside an old demo"""
    settings = load_settings(toml(f'database = "{EMBEDDED}"'), {})
    assert [problem.key for problem in missing_settings(settings)] == ["secret_key"]
    with refused() as problems:
        bind_sources(settings, WORLD)
    assert list(problems) == ["sources"]


# Retention ----------------------------------------------------------------------------------------------------------


def test_retention_from_file_and_environment(toml: Write) -> None:
    """lengths of retention come from the file, and single ones or all of them from the environment"""
    path = toml('[retention]\nevents = "2y"\nraw = "12w"\naudit_log = "forever"\n')
    kept = load_settings(path, {"RECEIVER_RETENTION__RAW": "90d"}).retention
    assert (kept.events, kept.raw, kept.audit_log) == (timedelta(days=730), timedelta(days=90), None)
    assert load_settings(path, {"RECEIVER_RETENTION": '{"ids": "forever"}'}).retention.ids is None


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("events", "ninety days", "is not a length of time"),
        ("events", "0d", "is not a length of time"),
        ("ids", "44d", "is too short"),
        ("partitions", "year", "input should be"),
        ("event", "90d", "did you mean events?"),
    ],
)
def test_retention_that_is_wrong(toml: Write, key: str, value: str, wrong: str) -> None:
    """a wrong length names its key, what is wrong with it, and what a right one looks like"""
    with refused() as problems:
        load_settings(toml(f'[retention]\n{key} = "{value}"\n'), {})
    problem = problems[f"retention.{key}"]
    assert wrong in problem.wrong
    assert "audit_log" in problem.right if key == "event" else key in problem.right
