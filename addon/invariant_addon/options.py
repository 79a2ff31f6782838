"""The options that mitmproxy shows: their names, defaults and what they give the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mitmproxy.addonmanager import Loader

from .core.terms import Mode
from .traces.push_rule import PUSH_RULES

CERTIFICATES = Path(__file__).resolve().parents[2] / "certs"
FAILURE = ("block", "pass")
PRECEDENCE = ("add", "replace")
REQUEST_CHECK = ("before", "concurrent")
WEBSOCKET = ("guard", "refuse")
PUSH = ("none", *PUSH_RULES)


class Options(Protocol):
    """The part of mitmproxy's options that is ours."""

    invariant_rules: Sequence[str]
    invariant_mask_rules: Sequence[str]
    invariant_shadow_rules: Sequence[str]
    invariant_log_rules: Sequence[str]
    invariant_project_rules: Sequence[str]
    invariant_starter_rules: bool
    invariant_trusted_rules: bool
    invariant_header_rules: bool
    invariant_explorer: str
    invariant_dataset: str
    invariant_precedence: str
    invariant_parameters: Sequence[str]
    invariant_engine: str
    invariant_replay_fails: bool
    invariant_hosts: Sequence[str]
    invariant_peers: Sequence[str]
    invariant_names: Sequence[str]
    invariant_certs: str
    invariant_data: str
    invariant_traces: bool
    invariant_keep_secrets: bool
    invariant_push: str
    invariant_push_dataset: str
    invariant_otlp: str
    invariant_otlp_content: bool
    invariant_stream: str
    invariant_request_check: str
    invariant_unseen_history: str
    invariant_websocket: str
    invariant_unknown: str
    invariant_on_failure: str
    invariant_on_failure_request: str
    invariant_on_failure_response: str
    invariant_deadline_ms: int
    invariant_wait_ms: int
    invariant_upstream_timeout_ms: int
    invariant_holdback: int
    invariant_check_interval_ms: int
    invariant_keep_alive_ms: int
    invariant_hold_limit_bytes: int
    invariant_workers: int
    invariant_worker_memory_mb: int


def declare(loader: Loader) -> None:
    """Tell mitmproxy about the options. Their values come later, in `configure`."""
    _declare_rules(loader)
    _declare_delivery(loader)
    _declare_limits(loader)


def _declare_rules(loader: Loader) -> None:
    add = loader.add_option
    add("invariant_rules", Sequence[str], [], "Rule files that every call is checked against.")
    add(
        "invariant_mask_rules",
        Sequence[str],
        [],
        "Rule files that say what to replace in a request before it goes upstream.",
    )
    add(
        "invariant_shadow_rules",
        Sequence[str],
        [],
        "Rule files on trial: what they would have blocked is noted.",
    )
    add(
        "invariant_log_rules",
        Sequence[str],
        [],
        "Rule files whose violations are noted, not blocked: on the flow and in the log.",
    )
    add(
        "invariant_project_rules",
        Sequence[str],
        [],
        "Rule files that came with a project; they block, and are never trusted.",
    )
    add(
        "invariant_starter_rules",
        bool,
        True,
        "Also check the rules that come with the proxy: keys that leave, destructive commands.",
    )
    add(
        "invariant_trusted_rules",
        bool,
        False,
        "Rule files may use all that invariant-ai offers: any import, functions that read files.",
    )
    add(
        "invariant_header_rules",
        bool,
        False,
        "Also check the rules, parameters and dataset that a request names in invariant-* headers.",
    )
    add(
        "invariant_explorer", str, "", "Address of an Invariant Explorer whose datasets hold rules."
    )
    add("invariant_dataset", str, "", "Dataset of that Explorer whose rules every call must keep.")
    add(
        "invariant_precedence",
        str,
        "add",
        "Rules of headers and datasets are added to the files ('add'), or the first of header, "
        "dataset and files that has any counts alone ('replace', as in invariant-gateway).",
        choices=PRECEDENCE,
    )
    add(
        "invariant_parameters",
        Sequence[str],
        [],
        "What rules read as input.KEY, as KEY=VALUE; the value is JSON or else text.",
    )
    add(
        "invariant_engine",
        str,
        "local",
        "What judges: 'local' (this machine), or the address of a guardrails service.",
    )
    add(
        "invariant_replay_fails",
        bool,
        False,
        "End with 1 after reading recorded flows (-nr) if one of them would have been blocked.",
    )


def _declare_delivery(loader: Loader) -> None:
    add = loader.add_option
    add(
        "invariant_hosts",
        Sequence[str],
        [],
        "Hosts to guard beside api.openai.com and its regional names.",
    )
    add(
        "invariant_peers",
        Sequence[str],
        [],
        "Networks (172.17.0.0/16) whose programs may connect, beside those on this machine.",
    )
    add(
        "invariant_names",
        Sequence[str],
        [],
        "Names under which programs call this proxy itself (gateway, health), beside localhost and "
        "addresses; and origins of web pages (https://app.example) that may.",
    )
    add(
        "invariant_certs",
        str,
        str(CERTIFICATES),
        "Folder of the certificate that clients see; made at the first start.",
    )
    add(
        "invariant_data",
        str,
        "",
        "Folder for what is kept between starts; empty: invariant in the user's data folder.",
    )
    add(
        "invariant_traces",
        bool,
        True,
        "Keep every call with its verdicts, on this machine: scripts/traces shows them.",
    )
    add(
        "invariant_keep_secrets",
        bool,
        False,
        "Keep the secrets in traces, too: `scripts/traces show ID --secrets` shows them. What is "
        "sent or exported has placeholders in their place all the same.",
    )
    add(
        "invariant_push",
        str,
        "none",
        "Which traces are pushed to invariant_explorer: 'none', 'finished' (with a final reply, or "
        "with findings, as invariant-gateway does) or 'all'.",
        choices=PUSH,
    )
    add(
        "invariant_push_dataset",
        str,
        "",
        "Dataset for the traces of calls that name none; empty: invariant_dataset.",
    )
    add(
        "invariant_otlp",
        str,
        "",
        "Address of an OpenTelemetry receiver (OTLP over HTTP) that every trace is sent to.",
    )
    add(
        "invariant_otlp_content",
        bool,
        False,
        "Send there what was said, too, and not just figures and findings.",
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
        "invariant_request_check",
        str,
        "before",
        "A request goes upstream after its verdict ('before'), or at once, and its reply waits "
        "for the verdict ('concurrent'; only if it leaves nothing but an answer).",
        choices=REQUEST_CHECK,
    )
    add(
        "invariant_unseen_history",
        str,
        "block",
        "What happens to a call that leans on turns which OpenAI keeps and which cannot be had: "
        "'block', or 'pass' with a mark.",
        choices=FAILURE,
    )
    add(
        "invariant_websocket",
        str,
        "guard",
        "WebSockets to /v1/responses and /v1/realtime are judged frame by frame ('guard'), or "
        "refused, so that programs call by HTTP ('refuse').",
        choices=WEBSOCKET,
    )
    add(
        "invariant_unknown",
        str,
        "block",
        "What happens to a call that cannot be read (an endpoint, a body or a protocol that is not "
        "known): 'block', or 'pass' with a mark.",
        choices=FAILURE,
    )
    add(
        "invariant_on_failure",
        str,
        "block",
        "What happens to a call that could not be judged: 'block' or 'pass'.",
        choices=FAILURE,
    )
    for phase in ("request", "response"):
        add(
            f"invariant_on_failure_{phase}",
            str,
            "",
            f"The same for the {phase} alone; empty: as invariant_on_failure.",
            choices=["", *FAILURE],
        )


def _declare_limits(loader: Loader) -> None:
    add = loader.add_option
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
        "invariant_upstream_timeout_ms",
        int,
        600_000,
        "Milliseconds without a byte from upstream after which it is given up; 0: never.",
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
