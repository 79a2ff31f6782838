"""Files that nobody but their owner may read or write, in a folder of the same kind.

What somebody else could have written is not read (PrivateFileError), links are not followed, and
a file is replaced as a whole. Several programs may share the folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import InvariantError

try:
    import fcntl
except ImportError:  # Windows: its user folders are private by themselves
    fcntl = None  # type: ignore[assignment]

SIZE_LIMIT = 16 * 2**20
CAN_LOCK = fcntl is not None
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for whoever put a pipe there
_BINARY = getattr(os, "O_BINARY", 0)
_IS_POSIX = os.name == "posix"


class PrivateFileError(InvariantError):
    """A file or folder cannot be trusted, or not be used: which one, and why."""


def make_folder(folder: Path) -> None:
    """The folder, for its owner only. Raises PrivateFileError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _IS_POSIX:
            _check_owner(folder, folder.stat(), forbidden=0)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)
    except OSError as error:
        raise _cannot(folder, error) from error


def check_folder(folder: Path) -> None:
    """Raises PrivateFileError if others may write in it."""
    try:
        _check_owner(folder, folder.stat(), forbidden=0o022)
    except OSError as error:
        raise _cannot(folder, error) from error


def read(path: Path, *, forbidden: int = 0o022) -> bytes | None:
    """The file's bytes, None if there is none. Raises PrivateFileError.

    forbidden: permissions that it must not give (0o022: others may write).
    """
    try:
        number = os.open(path, os.O_RDONLY | _NO_LINK | _BINARY | _NO_WAIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot(path, error) from error
    try:
        status = os.fstat(number)
        _check(path, status, forbidden=forbidden)
        if status.st_size > SIZE_LIMIT:
            raise PrivateFileError(f"{path}: larger than {SIZE_LIMIT} bytes")
        with open(number, "rb", closefd=False) as file:
            return file.read(SIZE_LIMIT)
    except OSError as error:
        raise _cannot(path, error) from error
    finally:
        os.close(number)


def replace(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it sees the old one or the new one. PrivateFileError."""
    new = _write_beside(path, data)
    try:
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise _cannot(path, error) from error


def create(path: Path, data: bytes) -> None:
    """Write a file unless there is one: of two programs at once, one wins. PrivateFileError."""
    new = _write_beside(path, data)
    try:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(new)
    except OSError as error:
        raise _cannot(path, error) from error
    finally:
        new.unlink(missing_ok=True)


def ensure(path: Path) -> None:
    """A plain file that only its owner may use, made empty if there is none. PrivateFileError.

    A file that is there is not opened: closing it would free the locks that this program holds on
    it otherwise (SQLite's; https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        create(path, b"")
        return
    except OSError as error:
        raise _cannot(path, error) from error
    _check(path, status, forbidden=0o077)


def append(path: Path, line: bytes) -> int:
    """Add a line; the file's size afterwards. Raises PrivateFileError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK | _BINARY | _NO_WAIT
    try:
        number = os.open(path, flags, 0o600)
    except OSError as error:
        raise _cannot(path, error) from error
    try:
        status = os.fstat(number)
        _check(path, status, forbidden=0o022)
        os.write(number, line)  # at once: others append, too
        return os.fstat(number).st_size
    except OSError as error:
        raise _cannot(path, error) from error
    finally:
        os.close(number)


@contextlib.contextmanager
def locked(path: Path, *, seconds: float) -> Iterator[bool]:
    """Whether this program has the lock, after waiting so long for it at most."""
    if fcntl is None:
        yield True
        return
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o600)
    except OSError as error:
        raise _cannot(path, error) from error
    try:
        yield _lock(number, time.monotonic() + seconds)
    finally:
        os.close(number)  # and with it the lock


@contextlib.contextmanager
def taken(path: Path) -> Iterator[int | None]:
    """A file that is there, open to be read, if nobody else has a lock on it; else None.

    Raises PrivateFileError if others have access to it.
    """
    try:
        number = os.open(path, os.O_RDWR | _NO_LINK | _BINARY | _NO_WAIT)
    except OSError as error:
        raise _cannot(path, error) from error
    try:
        _check(path, os.fstat(number), forbidden=0o077)
        yield number if try_lock(number) else None
    finally:
        os.close(number)  # and with it the lock


def try_lock(number: int) -> bool:
    """Whether this program has the lock of an open file now: until it closes it, or dies."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(number: int, until: float) -> bool:
    while not try_lock(number):
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)
    return True


def _write_beside(path: Path, data: bytes) -> Path:
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY, 0o600)
        with open(number, "wb") as file:  # noqa: PTH123  # of a descriptor
            file.write(data)
            file.flush()
            os.fsync(number)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise _cannot(path, error) from error
    return new


def _check(path: Path, status: os.stat_result, *, forbidden: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PrivateFileError(f"{path}: not a plain file")
    _check_owner(path, status, forbidden=forbidden)


def _check_owner(path: Path, status: os.stat_result, *, forbidden: int) -> None:
    if not _IS_POSIX:
        return
    if status.st_uid != os.geteuid():
        raise PrivateFileError(f"{path}: it belongs to somebody else")
    if status.st_mode & forbidden:
        raise PrivateFileError(f"{path}: others have access to it (chmod go-rwx takes it away)")


def _cannot(path: Path, error: OSError) -> PrivateFileError:
    return PrivateFileError(f"{path}: {error.strerror or error}")
