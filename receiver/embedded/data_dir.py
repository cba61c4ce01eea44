"""The data directory: private, and used by one service at a time."""

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from receiver.errors import EmbeddedError

LOCK: Final = "lock"


class DataDirLock:
    """The right to use a data directory. Ends with `release`, or with the process, however that ends."""

    def __init__(self, data_dir: Path, file: IO[str]) -> None:
        self.data_dir: Final = data_dir
        self._file: Final = file

    def release(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_data_dir(data_dir: Path) -> DataDirLock:
    """Creates `data_dir` (mode 0700) if need be, and takes its lock. Reading files in it needs no lock.

    Raises `EmbeddedError` where another process holds the lock (naming its pid), where the directory is
    another user's, and where it holds files but was never a data directory.
    """
    data_dir = data_dir.absolute()
    try:
        _make_private(data_dir)
        file = open_private(data_dir / LOCK)
    except OSError as error:
        raise EmbeddedError(f"the data directory {data_dir} can't be used: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise EmbeddedError(
            f"{data_dir} is in use by another receiver (process {holder}): "
            "stop that one, or choose another directory with RECEIVER_DATA_DIR"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return DataDirLock(data_dir.resolve(), file)


def open_private(path: Path) -> IO[str]:
    """Opens a file of the data directory for appending and reading; a new one is readable by its owner alone.

    It belongs to whoever the directory belongs to. A link is refused: the server's user may write in this
    directory, and root must not follow where that leads.
    """
    opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(opened, owner.st_uid, owner.st_gid)
    return os.fdopen(opened, "a+", encoding="utf-8", errors="replace")


def _make_private(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = [path.name for path in data_dir.iterdir()]
    if names and LOCK not in names:
        # A mistyped path must not change the mode of someone's home directory.
        raise EmbeddedError(f"{data_dir} holds other files: choose an empty or new data directory")
    if stat.S_IMODE(data_dir.stat().st_mode) != 0o700:
        data_dir.chmod(0o700)
