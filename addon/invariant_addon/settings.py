"""The options that mitmproxy shows, and the settings that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader

from .core.terms import Limits, Mode
from .interception.certificates import DEFAULT_HOSTS

CERTIFICATES = Path(__file__).resolve().parents[2] / "certs"


class Options(Protocol):
    """The part of mitmproxy's options that is ours."""

    invariant_rules: Sequence[str]
    invariant_log_rules: Sequence[str]
    invariant_starter_rules: bool
    invariant_hosts: Sequence[str]
    invariant_certs: str
    invariant_stream: str
    invariant_on_failure: str
    invariant_deadline_ms: int
    invariant_wait_ms: int
    invariant_holdback: int
    invariant_check_interval_ms: int
    invariant_keep_alive_ms: int
    invariant_hold_limit_bytes: int
    invariant_workers: int
    invariant_worker_memory_mb: int


def declare(loader: Loader) -> None:
    """Tell mitmproxy about the options. Their values come later, in `configure`."""
    add = loader.add_option
    add("invariant_rules", Sequence[str], [], "Rule files that every call is checked against.")
    add(
        "invariant_log_rules",
        Sequence[str],
        [],
        "Rule files whose violations are noted, not blocked: on the flow and in the log.",
    )
    add(
        "invariant_starter_rules",
        bool,
        True,
        "Also check the rules that come with the proxy: keys that leave, destructive commands.",
    )
    add(
        "invariant_hosts",
        Sequence[str],
        [],
        "Hosts to guard beside api.openai.com and its regional names.",
    )
    add(
        "invariant_certs",
        str,
        str(CERTIFICATES),
        "Folder of the certificate that clients see; made at the first start.",
    )
    add(
        "invariant_stream",
        str,
        Mode.VERIFIED.value,
        "How streamed replies are delivered: 'verified' (as soon as what came was judged clean), "
        "'buffer' (after the last verdict) or 'observe' (at once; a violation ends the stream).",
        choices=[mode.value for mode in Mode],
    )
    add(
        "invariant_on_failure",
        str,
        "block",
        "What happens to a call that could not be judged: 'block' or 'pass'.",
        choices=["block", "pass"],
    )
    add(
        "invariant_deadline_ms",
        int,
        2000,
        "Milliseconds of judging after which a check counts as failed.",
    )
    add(
        "invariant_wait_ms",
        int,
        10_000,
        "Milliseconds to wait for a free engine before a check counts as failed.",
    )
    add(
        "invariant_holdback",
        int,
        0,
        "Characters held at the end of a growing reply; an unfinished word is held in any case.",
    )
    add(
        "invariant_check_interval_ms",
        int,
        50,
        "Milliseconds at least from one check of a growing reply to the next.",
    )
    add(
        "invariant_keep_alive_ms",
        int,
        10_000,
        "Milliseconds without a byte, because of a check, after which a comment is sent.",
    )
    add(
        "invariant_hold_limit_bytes",
        int,
        8 * 2**20,
        "Bytes of one streamed reply that may wait for a verdict.",
    )
    add("invariant_workers", int, 0, "Processes that judge; 0: chosen by the number of cores.")
    add("invariant_worker_memory_mb", int, 2048, "Memory that one of them may use, in MiB.")


@dataclass(frozen=True, slots=True)
class Settings:
    """The options, checked. What needs a setting keeps the Settings it started with."""

    rules: tuple[Path, ...]
    log_rules: tuple[Path, ...]
    starter_rules: bool
    hosts: tuple[str, ...]
    certificates: Path
    mode: Mode
    limits: Limits
    deadline_ms: int
    wait_ms: int
    workers: int
    worker_memory_mb: int

    @property
    def fail_open(self) -> bool:
        return self.limits.fail_open


def read(options: Options) -> Settings:
    """Raises OptionsError: which option, what it was, what was expected."""
    _one_of(options, "invariant_stream", [mode.value for mode in Mode])
    _one_of(options, "invariant_on_failure", ["block", "pass"])
    for name in ("invariant_deadline_ms", "invariant_wait_ms", "invariant_keep_alive_ms"):
        _at_least(options, name, 1)
    _at_least(options, "invariant_hold_limit_bytes", 1024)
    _at_least(options, "invariant_worker_memory_mb", 256)
    for name in ("invariant_holdback", "invariant_check_interval_ms", "invariant_workers"):
        _at_least(options, name, 0)
    return Settings(
        rules=_paths(options.invariant_rules),
        log_rules=_paths(options.invariant_log_rules),
        starter_rules=options.invariant_starter_rules,
        hosts=(*DEFAULT_HOSTS, *(_host(name) for name in options.invariant_hosts)),
        certificates=Path(options.invariant_certs).expanduser(),
        mode=Mode(options.invariant_stream),
        limits=Limits(
            interval=options.invariant_check_interval_ms / 1000,
            keep_alive=options.invariant_keep_alive_ms / 1000,
            held_bytes=options.invariant_hold_limit_bytes,
            holdback=options.invariant_holdback,
            fail_open=options.invariant_on_failure == "pass",
        ),
        deadline_ms=options.invariant_deadline_ms,
        wait_ms=options.invariant_wait_ms,
        workers=options.invariant_workers,
        worker_memory_mb=options.invariant_worker_memory_mb,
    )


def _paths(names: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(name).expanduser() for name in names)


def _host(name: str) -> str:
    host = name.strip().lower().rstrip(".")
    if not host or any(c in host for c in "/:@*?# "):
        raise exceptions.OptionsError(
            f"invariant_hosts: got {name!r}, expected a host name without scheme, port or path"
        )
    return host


def _one_of(options: Options, name: str, allowed: Sequence[str]) -> None:
    got = getattr(options, name)
    if got not in allowed:
        wanted = " or ".join(repr(a) for a in allowed)
        raise exceptions.OptionsError(f"{name}: got {got!r}, expected {wanted}")


def _at_least(options: Options, name: str, least: int) -> None:
    got = getattr(options, name)
    if got < least:
        raise exceptions.OptionsError(f"{name}: got {got}, expected {least} or more")
