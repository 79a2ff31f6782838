"""The settings that are made of the options: checked, and frozen."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

import orjson
from mitmproxy import exceptions

from .core.refusal import Phase
from .core.sites import PLACELESS, bare, host_of
from .core.terms import Limits, Mode
from .interception.certificates import DEFAULT_HOSTS
from .options import FAILURE, PRECEDENCE, PUSH, REQUEST_CHECK, WEBSOCKET, Options
from .outgoing import base_url
from .rules.data import default_folder
from .rules.files import Files
from .traces.explorer_form import is_dataset
from .traces.push_rule import PushRule

logger = logging.getLogger(__name__)

RULE_OPTIONS = frozenset(
    {
        "invariant_rules",
        "invariant_mask_rules",
        "invariant_shadow_rules",
        "invariant_log_rules",
        "invariant_project_rules",
        "invariant_starter_rules",
        "invariant_trusted_rules",
        "invariant_parameters",
        "invariant_header_rules",
        "invariant_dataset",
        "invariant_precedence",
    }
)
"""A change of one of these makes the rules be read again; what a call finds depends on them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options, checked. What needs a setting keeps the Settings it started with.

    explorer, engine, otlp: addresses without a slash at the end; "" for none, and for judging here.
    push: which traces go to the Explorer. push_dataset: where to, if a call names no dataset.
    otlp_content: also what was said.
    replaces: the first of header, dataset and files that has any rules counts alone.
    """

    files: Files
    header_rules: bool
    explorer: str
    dataset: str
    replaces: bool
    parameters: Mapping[str, object]
    engine: str
    hosts: tuple[str, ...]
    names: tuple[str, ...]
    data: Path
    traces: bool
    keep_secrets: bool
    push: PushRule | Literal["none"]
    push_dataset: str
    otlp: str
    otlp_content: bool
    mode: Mode
    concurrent: bool
    passes_unknown: bool
    fail_open_request: bool
    passes_unseen: bool
    guards_websockets: bool
    limits: Limits
    deadline_ms: int
    wait_ms: int
    workers: int
    worker_memory_mb: int

    def fails_open(self, phase: Phase) -> bool:
        return self.fail_open_request if phase == "request" else self.limits.fail_open


@contextlib.contextmanager
def refused(*, is_running: bool) -> Iterator[None]:
    """A bad option ends a mitmproxy that starts, with one line; later, its change is refused.

    An OptionsError at the start would only take the addon away, and mitmproxy go on without it.
    """
    try:
        yield
    except exceptions.OptionsError as error:
        if is_running:
            raise
        logger.error("%s", error)  # mitmproxy ends with it


def read(options: Options) -> Settings:
    """Raises OptionsError: which option, what it was, what was expected."""
    _check(options)
    explorer = _address(options, "invariant_explorer")
    if options.invariant_dataset and not explorer:
        raise exceptions.OptionsError(
            "invariant_dataset: got a name, but invariant_explorer does not say where it is"
        )
    data = options.invariant_data
    general = options.invariant_on_failure
    return Settings(
        files=Files(
            block=_paths(options.invariant_rules),
            mask=_paths(options.invariant_mask_rules),
            shadow=_paths(options.invariant_shadow_rules),
            log=_paths(options.invariant_log_rules),
            project=_paths(options.invariant_project_rules),
            starter=options.invariant_starter_rules,
            trusted=options.invariant_trusted_rules,
        ),
        header_rules=options.invariant_header_rules,
        explorer=explorer,
        dataset=options.invariant_dataset,
        replaces=options.invariant_precedence == "replace",
        parameters=MappingProxyType(_parameters(options.invariant_parameters)),
        engine="" if options.invariant_engine == "local" else _service(options),
        hosts=hosts(options),
        names=tuple(_name(name) for name in options.invariant_names),
        data=Path(data).expanduser() if data else default_folder(),
        traces=options.invariant_traces,
        keep_secrets=options.invariant_keep_secrets,
        push=_push(options, explorer),
        push_dataset=_dataset(options, "invariant_push_dataset"),
        otlp=_address(options, "invariant_otlp"),
        otlp_content=options.invariant_otlp_content,
        mode=Mode(options.invariant_stream),
        concurrent=options.invariant_request_check == "concurrent",
        passes_unknown=options.invariant_unknown == "pass",
        fail_open_request=(options.invariant_on_failure_request or general) == "pass",
        passes_unseen=options.invariant_unseen_history == "pass",
        guards_websockets=options.invariant_websocket == "guard",
        limits=Limits(
            interval=options.invariant_check_interval_ms / 1000,
            keep_alive=options.invariant_keep_alive_ms / 1000,
            held_bytes=options.invariant_hold_limit_bytes,
            holdback=options.invariant_holdback,
            fail_open=(options.invariant_on_failure_response or general) == "pass",
        ),
        deadline_ms=options.invariant_deadline_ms,
        wait_ms=options.invariant_wait_ms,
        workers=options.invariant_workers,
        worker_memory_mb=options.invariant_worker_memory_mb,
    )


def hosts(options: Options) -> tuple[str, ...]:
    """The guarded hosts. Raises OptionsError."""
    return (*DEFAULT_HOSTS, *(_host(name) for name in options.invariant_hosts))


def peers(options: Options) -> tuple[str, ...]:
    """The networks whose programs may connect. Raises OptionsError."""
    for name in options.invariant_peers:
        try:
            ip_network(name.strip())
        except ValueError:
            raise exceptions.OptionsError(
                f"invariant_peers: got {name!r}, expected a network such as 172.17.0.0/16"
            ) from None
    return tuple(name.strip() for name in options.invariant_peers)


def _check(options: Options) -> None:
    _one_of(options, "invariant_stream", [mode.value for mode in Mode])
    _one_of(options, "invariant_precedence", PRECEDENCE)
    _one_of(options, "invariant_push", PUSH)
    _one_of(options, "invariant_request_check", REQUEST_CHECK)
    _one_of(options, "invariant_unknown", FAILURE)
    _one_of(options, "invariant_on_failure", FAILURE)
    _one_of(options, "invariant_unseen_history", FAILURE)
    _one_of(options, "invariant_websocket", WEBSOCKET)
    for phase in ("request", "response"):
        _one_of(options, f"invariant_on_failure_{phase}", ["", *FAILURE])
    for name in ("invariant_deadline_ms", "invariant_wait_ms", "invariant_keep_alive_ms"):
        _at_least(options, name, 1)
    _at_least(options, "invariant_hold_limit_bytes", 1024)
    _at_least(options, "invariant_worker_memory_mb", 256)
    for name in (
        "invariant_holdback",
        "invariant_check_interval_ms",
        "invariant_workers",
        "invariant_upstream_timeout_ms",
    ):
        _at_least(options, name, 0)


def _paths(names: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(name).expanduser() for name in names)


def _parameters(given: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for item in given:
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier() or key.startswith("_") or key == "data":
            raise exceptions.OptionsError(
                f"invariant_parameters: got {key!r}, expected KEY=VALUE; KEY is a name, and not "
                "`data`"
            )
        try:
            found[key] = orjson.loads(text)
        except orjson.JSONDecodeError:
            found[key] = text
    return found


def _service(options: Options) -> str:
    try:
        return _address(options, "invariant_engine")
    except exceptions.OptionsError as error:
        raise exceptions.OptionsError(f"{error}, or 'local'") from None


def _address(options: Options, name: str) -> str:
    got: str = getattr(options, name)
    try:
        return base_url(got) if got.strip() else ""
    except ValueError as error:  # which does not quote it: there may be a password in it
        raise exceptions.OptionsError(f"{name}: {error}") from None


def _dataset(options: Options, name: str) -> str:
    """One that an Explorer makes if it is not there yet."""
    got: str = getattr(options, name)
    if got and not is_dataset(got):
        raise exceptions.OptionsError(
            f"{name}: got {got!r}, expected letters, digits, '_' and '-', 256 at most"
        )
    return got


def _push(options: Options, explorer: str) -> PushRule | Literal["none"]:
    got = options.invariant_push
    if got != "none" and not explorer:
        raise exceptions.OptionsError(
            f"invariant_push: got {got!r}, expected 'none' without invariant_explorer"
        )
    for name, is_set in (
        ("invariant_push", got != "none"),
        ("invariant_otlp", bool(options.invariant_otlp)),
    ):
        if is_set and not options.invariant_traces:
            raise exceptions.OptionsError(
                f"{name}: traces are sent from where they are kept; expected invariant_traces=true"
            )
    return cast(PushRule, got)


def _host(name: str) -> str:
    host = name.strip().lower().rstrip(".")
    if not host or any(c in host for c in "/:@*?# "):
        raise exceptions.OptionsError(
            f"invariant_hosts: got {name!r}, expected a host name without scheme, port or path"
        )
    return host


def _name(name: str) -> str:
    host = bare(name)
    if host not in PLACELESS and host_of(host.partition("://")[2] or host) == "":
        raise exceptions.OptionsError(
            f"invariant_names: got {name!r}, expected a host name, or an origin such as "
            "https://app.example"
        )
    return host if "://" in host else host_of(host) or host


def _one_of(options: Options, name: str, allowed: Sequence[str]) -> None:
    got = getattr(options, name)
    if got not in allowed:
        wanted = " or ".join(repr(a) for a in allowed if a)
        raise exceptions.OptionsError(f"{name}: got {got!r}, expected {wanted}")


def _at_least(options: Options, name: str, least: int) -> None:
    got = getattr(options, name)
    if got < least:
        raise exceptions.OptionsError(f"{name}: got {got}, expected {least} or more")
