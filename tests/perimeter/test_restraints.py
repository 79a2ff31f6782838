"""mitmproxy's own options, and who may connect."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest
from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader as AddonLoader
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.onboarding import Onboarding
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons

from invariant_addon.options import declare
from invariant_addon.perimeter import peers, restraints
from invariant_addon.perimeter.hooks import Perimeter
from invariant_addon.perimeter.peers import Peers

HOSTS = ("api.openai.com", "eu.api.openai.com")
LEAF = Path("/certs/leaf.pem")


@pytest.fixture
def options():
    """mitmproxy's real ones."""
    with taddons.context(Onboarding(), Proxyserver()) as context:
        restraints.apply(context.options, HOSTS, LEAF)
        yield context.options


def check(options, *updated: str) -> None:
    restraints.check(options, updated or restraints.WATCHED, HOSTS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ignore_hosts", ["openai"]),
        ("ignore_hosts", [r"^api\.openai\.com:443$"]),
        ("ignore_hosts", ["API.OPENAI"]),
        ("ignore_hosts", ["."]),
        ("ignore_hosts", [":443$"]),
        ("allow_hosts", ["^other.example:443$"]),
        ("allow_hosts", [r"^api\.openai\.com:443$"]),  # the regional hosts are missing
        ("allow_hosts", []),
        ("stream_large_bodies", "1m"),
        ("validate_inbound_headers", False),
    ],
)
def test_what_leads_around_the_guard_is_refused_with_its_name(options, name: str, value) -> None:
    """Each was a way to OpenAI without a judgement."""
    check(options)
    options.update(**{name: value})
    with pytest.raises(exceptions.OptionsError, match=f"^{name}: got "):
        check(options)


def test_hosts_that_are_ignored_are_ignored_in_any_case(options) -> None:
    """A connection that names one of them and a guarded host as well would be let by."""
    options.update(ignore_hosts=["apple.com"])
    check(options)
    assert options.ignore_hosts == []


def test_what_the_owner_chose_is_kept_and_said(options, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else's certificates and hosts are their own affair."""
    options.update(
        allow_hosts=["^mine:443$", *options.allow_hosts],
        certs=["mine=/mine.pem", "/rest.pem", *options.certs],
    )
    restraints.apply(options, ("api.openai.com", "llm.example"), Path("/new/leaf.pem"))
    assert options.allow_hosts == [
        restraints.host_pattern(("api.openai.com", "llm.example")),
        "^mine:443$",
    ]
    assert options.certs[:2] == ["api.openai.com=/new/leaf.pem", "llm.example=/new/leaf.pem"]
    assert "mine=/mine.pem" in options.certs and "/rest.pem" in options.certs
    assert "'^mine:443$' is decrypted besides" in caplog.text


def test_doing_it_twice_changes_nothing(options) -> None:
    """The script is loaded again at each edit."""
    before = list(options.allow_hosts), list(options.certs)
    restraints.apply(options, HOSTS, LEAF)
    assert (list(options.allow_hosts), list(options.certs)) == before


def test_a_weaker_choice_is_said_once(options, caplog: pytest.LogCaptureFixture) -> None:
    """It is allowed, and nobody should have to find out by himself."""
    caplog.set_level(logging.WARNING)
    options.update(ssl_insecure=True)
    check(options, "ssl_insecure")
    check(options, "certs")
    assert caplog.text.count("ssl_insecure: whoever is on the way") == 1


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_programs_on_this_machine_may_connect(peer: str) -> None:
    """By whichever spelling."""
    assert Peers().may_connect(peer)


@pytest.mark.parametrize(
    "peer",
    [
        "192.0.2.7",
        "::ffff:192.0.2.7",
        "fe80::1%eth0",
        "2001:db8::1",
        "0.0.0.0",
        "224.0.0.1",
        "",
        "x",
    ],
)
def test_nobody_else_may(peer: str) -> None:
    """An open port is a proxy for the whole street."""
    assert not Peers().may_connect(peer)
    assert not Peers(["198.51.100.0/24"]).may_connect(peer)


def test_a_network_that_was_named_may_as_well() -> None:
    """The containers of this machine, for instance."""
    named = Peers(["172.17.0.0/16", "2001:db8::/32"])
    assert named.may_connect("172.17.0.2") and named.may_connect("::ffff:172.17.0.2")
    assert named.may_connect("2001:db8::5")
    assert not named.may_connect("172.18.0.2")


def test_the_machines_own_addresses_are_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a firewall redirects to the proxy comes from there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing by this
        except OSError as error:
            pytest.skip(f"no address of its own: {error}")
        own = probe.getsockname()[0]
    assert Peers().may_connect(own)
    setting = tmp_path / "ip_nonlocal_bind"
    setting.write_text("1\n")
    monkeypatch.setattr(peers, "ANY_ADDRESS", setting)
    if not own.startswith("127."):
        assert not Peers().may_connect(own), "where every address can be bound, nothing is proved"


def test_a_change_while_it_runs_is_refused_and_undone(tmp_path: Path) -> None:
    """`:set ignore_hosts=...` in mitmproxy's console must not open a way."""
    perimeter = Perimeter()
    with taddons.context(NextLayer(), Onboarding(), Proxyserver()) as context:
        declared = AddonLoader(context.master)
        declare(declared)
        context.options.update(invariant_certs=str(tmp_path / "certs"))
        context.master.addons.add(perimeter)
        perimeter.configure(set(context.options.keys()))
        perimeter._is_running = True
        before = list(context.options.allow_hosts)
        for name, value in (("ignore_hosts", ["openai"]), ("allow_hosts", ["x"])):
            with pytest.raises(exceptions.OptionsError, match=name):
                context.options.update(**{name: value})
        assert list(context.options.allow_hosts) == before
        assert not context.options.ignore_hosts
