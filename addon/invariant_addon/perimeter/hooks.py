"""Who may connect, and which hosts are decrypted: the least that the job needs.

- Only the guarded hosts are decrypted; every other host's own certificate reaches the client.
- No CA key is used: the guarded hosts have one certificate of their own (interception/).
- The proxy listens on loopback, unless it was told otherwise.
- The connection to upstream is opened after the request was judged, not before.
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from mitmproxy import connection, ctx, exceptions, http, tls
from mitmproxy.proxy import mode_specs

from .. import settings
from ..interception import certificates
from . import restraints
from .around import Around
from .distrust import Distrust
from .guarded import GUARDED, Guarded
from .peers import Peers

logger = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"


def on_loopback(mode: str, port: int | None) -> str:
    """The same mode specification, bound to loopback if it names no address itself."""
    parsed = mode_specs.ProxyMode.parse(mode)
    if parsed.custom_listen_host or not isinstance(
        parsed, mode_specs.RegularMode | mode_specs.ReverseMode | mode_specs.Socks5Mode
    ):
        return mode
    spec = parsed.full_spec.split("@", 1)[0]
    return f"{spec}@{LOOPBACK}:{parsed.listen_port(port)}"


def _lead_by_sni(flow: http.HTTPFlow, guarded: Guarded) -> None:
    """In reverse mode behind the hosts file, one port serves all guarded hosts: TLS says which."""
    sni, request = flow.client_conn.sni, flow.request
    if (
        isinstance(flow.client_conn.proxy_mode, mode_specs.ReverseMode)
        and sni is not None
        and guarded.has(sni)
        and sni != request.host
    ):
        request.data.host = sni
        request.host_header = sni


_OWN_PEERS = mode_specs.LocalMode | mode_specs.WireGuardMode
"""Modes that know their clients otherwise: by the kernel, by a key."""


class Perimeter:
    """The hooks. Comes before the guardrails in the list of addons."""

    def __init__(self) -> None:
        self.guarded = Guarded(())
        self.addons = [Distrust(lambda: self.guarded), Around(lambda: self.guarded)]
        self._nonce = f"invariant-{secrets.token_hex(8)}"
        self._peers = Peers()
        self._has_told_of_peers = False
        self._is_running = False
        self._is_applying = False

    def configure(self, updated: set[str]) -> None:
        with settings.refused(is_running=self._is_running):
            self._configure(updated)

    def _configure(self, updated: set[str]) -> None:
        if "invariant_peers" in updated:
            self._peers = Peers(settings.peers(ctx.options))
        if updated & {"invariant_hosts", "invariant_certs"}:
            self._open_certificates()
        if updated & set(restraints.WATCHED) and not self._is_applying:
            restraints.check(ctx.options, updated, self.guarded.names)
        if "mode" in updated or "invariant_hosts" in updated:
            self._check_reverse_targets()

    def _open_certificates(self) -> None:
        try:
            hosts = settings.hosts(ctx.options)
        except exceptions.OptionsError:
            return  # the guardrails say so
        self.guarded = Guarded(hosts)
        folder = Path(ctx.options.invariant_certs).expanduser()
        try:
            found = certificates.ensure(folder, hosts)
        except OSError as error:
            said = f"{folder}: {error.strerror}" if error.strerror else str(error)
            raise exceptions.OptionsError(f"invariant_certs: {said}") from error
        except ValueError as error:
            raise exceptions.OptionsError(f"invariant_hosts: {error}") from error
        if found.created:
            logger.info(
                "made a certificate in %s (%s); clients must trust %s",
                *(found.folder, found.reason, found.ca),
            )
        if found.ends_soon:
            logger.warning("%s; scripts/system renew makes a new one", found.ends_soon)
        self._is_applying = True  # what is set here comes back as a change
        try:
            restraints.apply(ctx.options, hosts, found.leaf)
        finally:
            self._is_applying = False

    def _check_reverse_targets(self) -> None:
        for mode in ctx.options.mode:
            parsed = mode_specs.ProxyMode.parse(mode)
            if isinstance(parsed, mode_specs.ReverseMode) and not self.guarded.has(
                parsed.address[0]
            ):
                raise exceptions.OptionsError(
                    f"mode: {mode!r} leads to a host that is not guarded, so nothing would be "
                    f"checked; add it with --set invariant_hosts={parsed.address[0]}"
                )

    def running(self) -> None:
        self._is_running = True
        if not ctx.options.listen_host:
            # Scripts are loaded after mitmproxy has read listen_host: bind once more.
            modes = [on_loopback(mode, ctx.options.listen_port) for mode in ctx.options.mode]
            if modes != list(ctx.options.mode):
                ctx.options.update(mode=modes)
        elif ctx.options.listen_host not in (LOOPBACK, "::1", "localhost"):
            logger.warning(
                "listening on %s, not on loopback alone; %s",
                *(ctx.options.listen_host, self._peers.summary),
            )
        if ctx.master.addons.get("invariantlate") is None:
            ctx.master.addons.add(InvariantLate())

    def client_connected(self, client: connection.Client) -> None:
        if client.peername is None or isinstance(client.proxy_mode, _OWN_PEERS):
            return
        if not self._peers.may_connect(client.peername[0]):
            client.error = "only programs on this machine may connect"
            if not self._has_told_of_peers:
                self._has_told_of_peers = True
                logger.warning(
                    "refused a connection from %s: only programs on this machine may connect; "
                    "--set invariant_peers=NETWORK lets others in",
                    client.peername[0],
                )

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """Answer the CONNECT ourselves: mitmproxy would first connect to upstream."""
        if self.guarded.has(flow.request.host) and flow.response is None:
            flow.response = http.Response(
                b"HTTP/1.1", 200, b"Connection established", http.Headers(), b"", None, 0, 0
            )

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """A request that comes back to us was sent in a circle (DNS rebinding): stop it."""
        if self.guarded.has_flow(flow):
            flow.metadata[GUARDED] = True
            _lead_by_sni(flow, self.guarded)
        if flow.client_conn.tls_established:
            return
        via = f"1.1 {self._nonce}"
        if via in flow.request.headers.get_all("via"):
            flow.response = http.Response.make(508, b"This proxy was asked to call itself.")
        else:
            flow.request.headers.add("via", via)


class InvariantLate:
    """What must run behind mitmproxy's own TlsConfig. Added once; scripts come before it."""

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """Speak TLS with the client first: whether upstream is called at all is not decided."""
        names = (data.client_hello.sni, (data.context.server.address or ("",))[0])
        perimeter = ctx.master.addons.get("perimeter")
        if (
            isinstance(perimeter, Perimeter)
            and any(perimeter.guarded.has(name) for name in names)
            # In reverse mode the connection is open already, and would be used without TLS.
            and not data.context.server.connected
        ):
            data.establish_server_tls_first = False
