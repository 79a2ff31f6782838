"""Who is compared: the fake itself, a bare mitmdump, and invariant with more and more rules."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import machine
from children import HERE, START_SECONDS, BenchError, Child
from scenarios import HOST

AGAINST = "other"
_LISTENING = re.compile(r"listening at (?:\S+://)?(?:\S*?):(\d+)\.?\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Contender:
    """name: of at most 12 characters. proxied: goes through a mitmdump. guarded: with invariant.

    options: for --set, item by item. scripts: further mitmproxy scripts. root: the checkout that
    its addon comes from, if not this one.
    """

    name: str
    proxied: bool = True
    guarded: bool = False
    options: tuple[tuple[str, str], ...] = ()
    scripts: tuple[Path, ...] = ()
    root: Path | None = None


def contenders(root: Path, rules: Path, against: Path | None = None) -> list[Contender]:
    """All of them; `starter` only if there are starter rules, `other` only with `against`."""
    bare = HERE / "mitm_bare.py"
    off = ("invariant_starter_rules", "false")
    found = [
        Contender("direct", proxied=False),
        Contender("bare", scripts=(bare,)),
        Contender("no rules", guarded=True, options=(off,)),
        ruled := Contender("rules", True, True, (off, ("invariant_rules", str(rules)))),
        replace(ruled, name="no traces", options=(*ruled.options, ("invariant_traces", "false"))),
    ]
    if against:
        found.append(replace(ruled, name=AGAINST, root=against.resolve()))
    if any((root / "addon" / "invariant_addon" / "starter").glob("*/*.inv")):
        found.append(Contender("starter", guarded=True))
    return [*found, Contender("bare again", scripts=(bare,))]


@dataclass
class Runner:
    """A contender that can be asked. port, ca: where, and what to trust.

    pid: of the mitmdump; None: there is none.
    """

    contender: Contender
    port: int
    ca: Path
    child: Child | None = field(default=None)

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child else None

    @property
    def route(self) -> dict[str, object]:
        return {"port": self.port, "ca": str(self.ca), "proxied": self.child is not None}

    def usage(self) -> machine.Usage:
        return machine.usage(self.pid) if self.pid else machine.Usage(0, 0, 0, 0, 0)

    def stop(self) -> None:
        if self.child:
            self.child.stop()


def start(contender: Contender, root: Path, folder: Path, upstream: int, ca: Path) -> Runner:
    """upstream: the fake's port. ca: what to trust there. Raises BenchError, with the log."""
    if not contender.proxied:
        return Runner(contender, upstream, ca)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "mitmdump.log"
    environment = {"BENCH_PORT": str(upstream), "BENCH_PROFILE": str(folder / "profile.txt")}
    child = Child(_command(contender, root, folder, ca), folder, environment, log)
    trusted = folder / ("certs/ca.pem" if contender.guarded else "confdir/mitmproxy-ca-cert.pem")
    runner = Runner(contender, 0, trusted, child)
    end = time.monotonic() + START_SECONDS
    try:
        while not _is_ready(runner, log):
            if child.code is not None or time.monotonic() > end:
                raise BenchError(
                    f"{contender.name} did not start:\n{log.read_text(errors='replace')[-3000:]}"
                )
            time.sleep(0.1)
    except BaseException:
        child.stop()
        raise
    return runner


def _command(contender: Contender, root: Path, folder: Path, ca: Path) -> Sequence[str]:
    options = [
        ("confdir", str(folder / "confdir")),
        ("ssl_verify_upstream_trusted_ca", str(ca)),
        ("flow_detail", "0"),
        *([("invariant_certs", str(folder / "certs"))] if contender.guarded else []),
        *contender.options,
    ]
    addon = (contender.root or root) / "addon" / "invariant.py"
    scripts = [addon] if contender.guarded else []
    scripts += [*contender.scripts, HERE / "mitm_redirect.py"]
    return [
        str(Path(sys.executable).with_name("mitmdump")),
        *("--listen-host", "127.0.0.1", "--listen-port", "0"),
        *(part for script in scripts for part in ("-s", str(script))),
        *(part for name, value in options for part in ("--set", f"{name}={value}")),
    ]


def _is_ready(runner: Runner, log: Path) -> bool:
    if not runner.port:
        found = _LISTENING.search(log.read_text(errors="replace"))
        if not found:
            return False
        runner.port = int(found[1])
    if not runner.ca.exists():
        return False
    return not runner.contender.guarded or _is_healthy(runner)


def _is_healthy(runner: Runner) -> bool:
    tls = ssl.create_default_context(cafile=str(runner.ca))
    asking = http.client.HTTPSConnection("127.0.0.1", runner.port, timeout=5, context=tls)
    try:
        asking.set_tunnel(HOST, 443)
        asking.request("GET", "/.invariant/health")
        return json.loads(asking.getresponse().read()).get("ready") is True
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        asking.close()
