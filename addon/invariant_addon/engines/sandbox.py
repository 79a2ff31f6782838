"""Takes from the worker what judging does not need: network, programs, writing, other processes.

Policies are code: `from subprocess import getoutput` works in them. Best effort, with what the
platform offers and without privileges: on Linux a seccomp filter, which threads inherit and nobody
can take back; elsewhere limits only. What is denied raises PermissionError in the rule.
Reading files stays allowed: Python imports, detectors load their patterns.
Numbers: linux/asm/unistd_64.h, asm-generic/unistd.h, linux/seccomp.h, linux/bpf_common.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

MAX_FILES = 128

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_X32 = 0x40000000  # the same calls once more under other numbers
_CLONE_THREAD = 0x10000
_CLONE_NEWUSER_NEWNET = 0x10000000 | 0x40000000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True, slots=True)
class _Machine:
    """arch: AUDIT_ARCH_... of linux/audit.h. denied: numbers of system calls.

    opens: those that open a file, and which argument holds the flags.
    """

    arch: int
    denied: tuple[int, ...]
    opens: tuple[tuple[int, int], ...]
    clone: int


# In both: openat2 and clone3 hide their flags in memory; libc goes on with the older ones.
_ABSENT = (437, 435)

# pidfd_send_signal, io_uring_setup, pidfd_open, pidfd_getfd, fchmodat2
_NEWER = (424, 425, 434, 438, 452)

# The lines below each: network; programs and processes; other processes' signals and memory;
# files' names; their rights; file systems and namespaces; the rest of the doors.

# fmt: off
_X86_64 = (
    41, 42, 43, 49, 50, 288,
    57, 58, 59, 322,
    62, 200, 234, 101, 310, 311,
    85, 82, 264, 316, 87, 263, 84, 83, 258, 86, 265, 88, 266, 76, 133, 259,
    90, 91, 268, 92, 93, 94, 260,
    165, 166, 155, 161, 308, 272,
    298, 304, 321,
)
_AARCH64 = (
    198, 203, 202, 200, 201, 242,
    221, 281,
    129, 130, 131, 117, 270, 271,
    38, 276, 35, 34, 37, 36, 45, 33,
    52, 53, 54, 55,
    40, 39, 41, 51, 268, 97,
    241, 265, 280,
)
# fmt: on

_MACHINES = {
    "x86_64": _Machine(0xC000003E, (*_X86_64, *_NEWER), ((2, 1), (257, 2)), 56),
    "aarch64": _Machine(0xC00000B7, (*_AARCH64, *_NEWER), ((56, 2),), 220),
}


def confine() -> list[str]:
    """Take away what can be taken; the names of what is in force. Never raises."""
    sys.dont_write_bytecode = True
    active = []
    with contextlib.suppress(Exception):
        if _limit():
            active.append("limits")
    with contextlib.suppress(Exception):
        if _filter():
            return [*active, "seccomp"]
    with contextlib.suppress(Exception):
        if _leave_network():
            active.append("no network")
    with contextlib.suppress(Exception):
        import resource  # noqa: PLC0415  # not on Windows

        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # the filter does it better: threads work
        active.append("no processes")
    return active


def _limit() -> bool:
    import resource  # noqa: PLC0415  # not on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    return True


def _leave_network() -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).unshare(_CLONE_NEWUSER_NEWNET) == 0)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _filter() -> bool:
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None or sys.maxsize < 2**32:
        return False
    code = b"".join(_program(machine))
    memory = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(memory, ctypes.c_void_p))
    libc = ctypes.CDLL(None)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _program(machine: _Machine) -> Iterator[bytes]:
    """Instructions of the filter: each check is followed by what to do if it holds."""
    denied = _statement(_RETURN, _ERRNO | errno.EPERM)
    absent = _statement(_RETURN, _ERRNO | errno.ENOSYS)
    allowed = _statement(_RETURN, _ALLOW)
    yield _statement(_LOAD, _ARCH)
    yield _jump(_EQUAL, machine.arch, 1, 0) + denied
    yield _statement(_LOAD, _NUMBER)
    yield _jump(_AT_LEAST, _X32, 0, 1) + denied
    for number in machine.denied:
        yield _jump(_EQUAL, number, 0, 1) + denied
    for number in _ABSENT:
        yield _jump(_EQUAL, number, 0, 1) + absent
    for number, argument in machine.opens:
        yield _jump(_EQUAL, number, 0, 4) + _load_argument(argument)
        yield _jump(_ANY_BIT, _WRITING, 0, 1) + denied + allowed
    yield _jump(_EQUAL, machine.clone, 0, 4) + _load_argument(0)
    yield _jump(_ANY_BIT, _CLONE_THREAD, 1, 0) + denied + allowed
    yield allowed


def _load_argument(index: int) -> bytes:
    return _statement(_LOAD, 16 + 8 * index)  # its lower half: both machines are little-endian


def _statement(code: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)
