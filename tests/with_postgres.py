"""Runs a command with `RECEIVER_TEST_DATABASE_URL` leading to a throw-away server of another PostgreSQL.

    python -m tests.with_postgres COMMAND ...

Takes the oldest version installed where Debian puts them that we support, or the one whose directory of
programs `RECEIVER_TEST_POSTGRES` names.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from receiver.embedded.places import Account, Places, account_for
from receiver.embedded.server import USER, launch
from tests.postgres import FAST, OVERRIDE
from tests.scratch import use_memory

OLDEST = 15


def main() -> int:
    programs = find_programs()
    use_memory()
    with tempfile.TemporaryDirectory(prefix="receiver-tests-") as name:
        data_dir = Path(name)
        account = account_for(data_dir)
        if account.uid is not None and account.gid is not None:
            os.chown(data_dir, account.uid, account.gid)
        places = Places(
            account=account,
            binaries=programs,
            version=version(programs),
            cluster=data_dir / "postgres",
            sockets=data_dir,
            log=data_dir / "postgres.log",
        )
        places.run("initdb", "-D", places.cluster, "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C")
        with launch(places, FAST, timeout=60) as running:
            sys.stderr.write(f"PostgreSQL {running.version} from {programs}\n")
            environment = os.environ | {OVERRIDE: running.dsn("postgres")}
            return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


def find_programs() -> Path:
    if named := os.environ.get("RECEIVER_TEST_POSTGRES"):
        return Path(named)
    installed = {
        int(path.parent.parent.name): path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")
    }
    if fitting := [major for major in installed if major >= OLDEST]:
        return installed[min(fitting)]
    sys.exit(f"no PostgreSQL {OLDEST} or newer in /usr/lib/postgresql; RECEIVER_TEST_POSTGRES=/its/bin names another")


def version(programs: Path) -> str:
    """From a line such as "initdb (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"."""
    return Account().run(programs / "initdb", "--version").stdout.split()[2]


if __name__ == "__main__":
    sys.exit(main())
