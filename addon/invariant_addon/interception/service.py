"""The proxy as a service of the system: under systemd, or (where there is none) in the background.

It listens on port 443 of this machine alone, with the one capability that this takes, as the user
who asked for it and not as root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .steps import Machine, StepError

UNIT = "/etc/systemd/system/invariant.service"
PORT = 443
STOP_SECONDS = 10.0
DESCRIPTION = "invariant, a guardrail proxy for OpenAI traffic"


@dataclass(frozen=True, slots=True)
class User:
    """Whom the proxy runs as. uid 0 only if nobody else was named."""

    name: str
    uid: int
    gid: int
    home: Path


def user(named: str | None) -> User:
    """The one that was named, or who called sudo, or who is there. Raises KeyError."""
    if named:
        entry = pwd.getpwnam(named)
    elif (uid := os.environ.get("SUDO_UID", "")).isdigit():
        entry = pwd.getpwuid(int(uid))
    else:
        entry = pwd.getpwuid(os.getuid())
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def command(mitmdump: Sequence[str], settings: Sequence[str], *, ipv6: bool) -> list[str]:
    """The two modes must differ in their text, hence the port in one of them."""
    listen = ["--mode", f"reverse:https://api.openai.com:443@127.0.0.1:{PORT}"]
    if ipv6:
        listen += ["--mode", f"reverse:https://api.openai.com@::1:{PORT}"]
    options = [part for setting in settings for part in ("--set", setting)]
    return [*mitmdump, *listen, "--set", "flow_detail=0", *options]


def unit(started: Sequence[str], owner: User, folders: Sequence[Path]) -> str:
    """The unit file. folders: what it may write to."""
    writable = " ".join(_systemd(f"-{folder}") for folder in folders)  # -: if it is there
    words = " ".join(_systemd(word) for word in started)
    return f"""\
[Unit]
Description={DESCRIPTION}
After=network.target

[Service]
User={owner.name}
ExecStart={words} --set confdir=/run/invariant
Environment=PYTHONUNBUFFERED=1
RuntimeDirectory=invariant
RuntimeDirectoryMode=0700
Restart=always
RestartSec=1
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={writable}
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def has_systemd(machine: Machine) -> bool:
    """Whether systemd runs here: its tools may be installed where it does not."""
    return machine.at("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def start_unit(machine: Machine, text: str) -> None:
    machine.write(machine.at(UNIT), text)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", "--now", "invariant.service")


def unit_is(machine: Machine) -> str:
    """ "ours", "another's", or "" if there is none."""
    try:
        text = machine.at(UNIT).read_text(errors="replace")
    except OSError:
        return ""
    return "ours" if f"Description={DESCRIPTION}" in text else "another's"


def stop_unit(machine: Machine) -> None:
    if unit_is(machine) == "ours":
        machine.run("systemctl", "disable", "--now", "invariant.service", may_fail=True)
        machine.remove(machine.at(UNIT))
        machine.run("systemctl", "daemon-reload")


def start_background(machine: Machine, started: Sequence[str], owner: User, log: Path) -> int:
    """Its process id. It is not started again by itself if it dies, or the machine does."""
    lowered = _as_user(owner)
    machine.say(f"  {shlex.join([*lowered, *started])} > {shlex.quote(str(log))} &")
    if machine.dry:
        return 0
    scratch = log.with_suffix(".conf")
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.getuid() == 0:
        os.chown(scratch, owner.uid, owner.gid)
    # The folder is the user's, and this is root: not through a link.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(log, flags, 0o600), "ab") as output:
        try:
            process = subprocess.Popen(
                [*lowered, *started, "--set", f"confdir={scratch}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(owner),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise StepError(f"{started[0]}: {error.strerror}") from error
    return process.pid


def stop_background(machine: Machine, pid: int, script: str) -> None:
    """End it, if this is still the process that was started: ids are used again."""
    if not is_ours(pid, script):
        return
    machine.say(f"  kill {pid}")
    if machine.dry:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # if it is our own child
            if not is_ours(pid, script):
                return
            time.sleep(0.05)
    raise StepError(f"the proxy (pid {pid}) does not end")


def is_ours(pid: int, script: str) -> bool:
    """Whether this process runs our script. pid 0: none."""
    if pid <= 0:
        return False
    if not Path("/proc/self").exists():
        listed = subprocess.run(
            ("ps", "-o", "args=", "-p", str(pid)),
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        return loads(listed.stdout.split(), script, None)
    return loads(words_of(pid), script, folder_of(pid))


def words_of(pid: int, proc: Path = Path("/proc")) -> list[str]:
    try:
        line = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return line.decode(errors="replace").split("\0")


def folder_of(pid: int, proc: Path = Path("/proc")) -> Path | None:
    try:
        return (proc / str(pid) / "cwd").readlink()
    except OSError:
        return None  # another user's


def loads(words: Sequence[str], script: str, folder: Path | None) -> bool:
    """Whether this command line has mitmproxy load the script. folder: where it was started, for
    it may be named from there; None: not known."""
    # `python mitmdump`, `python -I mitmdump`; setpriv becomes mitmdump in a moment.
    first = words if words and Path(words[0]).name == "setpriv" else words[:3]
    if not any(Path(word).name in ("mitmdump", "mitmweb", "mitmproxy") for word in first):
        return False
    tail = "/".join(Path(script).parts[-2:])
    for word in words:
        name = word.partition("scripts=")[2] or word.removeprefix("-s")
        if name == script:
            return True
        if name.endswith(Path(script).name) and not name.startswith("/"):
            if folder is None and name.endswith(tail):
                return True
            if folder is not None and (folder / name).resolve() == Path(script):
                return True
    return False


def _as_user(owner: User) -> list[str]:
    """What lowers root to this user, and leaves the one capability that port 443 takes."""
    if os.getuid() != 0 or owner.uid == 0:
        return []
    if (setpriv := shutil.which("setpriv")) is None:
        raise StepError("setpriv (util-linux) is not there, and the proxy should not run as root")
    capability = "-all,+net_bind_service"
    return [
        *(setpriv, f"--reuid={owner.uid}", f"--regid={owner.gid}", "--init-groups"),
        *(f"--inh-caps={capability}", f"--ambient-caps={capability}"),
        *(f"--bounding-set={capability}", "--no-new-privs", "--"),
    ]


def _environment(owner: User) -> dict[str, str]:
    """Nothing of the caller's: no proxy, no trust, no key."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ")
    inherited = {name: os.environ[name] for name in kept if name in os.environ}
    return {**inherited, "HOME": str(owner.home), "USER": owner.name, "PYTHONUNBUFFERED": "1"}


def _systemd(word: str) -> str:
    """A word as systemd reads it: quotes, backslashes, % and $ mean something to it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def listeners(script: str, proc: Path = Path("/proc")) -> list[int]:
    """Processes that run our script for the whole machine."""
    found = []
    for pid in pids(proc):
        words = words_of(pid, proc)
        whole = any(word.endswith((f"@127.0.0.1:{PORT}", f"@::1:{PORT}")) for word in words)
        if whole and loads(words, script, folder_of(pid, proc)):
            found.append(pid)
    return found


def pids(proc: Path = Path("/proc")) -> list[int]:
    names = (entry.name for entry in proc.iterdir()) if proc.is_dir() else ()
    return sorted(int(name) for name in names if name.isdigit())
