"""macOS and Windows: the same by hand. As documented by their makers; not tried by us."""

from __future__ import annotations

import sys
from pathlib import Path

from . import launch, terminal

_KEYCHAIN = "/Library/Keychains/System.keychain"
_MACOS = f"""\
sudo security add-trusted-cert -d -r trustRoot -p ssl -k {_KEYCHAIN} {{ca}}
echo '127.0.0.1 api.openai.com # invariant' | sudo tee -a /etc/hosts
echo '::1 api.openai.com # invariant' | sudo tee -a /etc/hosts
sudo {{mitmdump}} --mode reverse:https://api.openai.com:443@127.0.0.1:443   # as root: port 443"""
_MACOS_OFF = f"""\
sudo sed -i '' '/# invariant$/d' /etc/hosts
sudo security remove-trusted-cert -d {{ca}}
sudo security delete-certificate -c "invariant, for api.openai.com only" {_KEYCHAIN}"""
_WINDOWS = """\
certutil -user -addstore Root {ca}
rem in an editor, as administrator: %SystemRoot%\\System32\\drivers\\etc\\hosts gets the two lines
rem 127.0.0.1 api.openai.com # invariant
rem ::1 api.openai.com # invariant
{mitmdump} --mode reverse:https://api.openai.com:443@127.0.0.1:443"""
_WINDOWS_OFF = """\
rem take the two lines that end with "# invariant" out of the hosts file, then
certutil -user -delstore Root "invariant, for api.openai.com only"
"""


def explain(verb: str, folder: Path, platform: str = sys.platform) -> int:
    """Say what to type. Nothing is done. The exit code says so."""
    is_mac = platform == "darwin"
    if verb == "on":
        text = _MACOS if is_mac else _WINDOWS
    else:
        text = _MACOS_OFF if is_mac else _WINDOWS_OFF
    terminal.say(f"on this system it is done by hand; NOT VERIFIED. To turn it {verb}:")
    terminal.show(
        text.format(ca=folder / "ca.pem", mitmdump=" ".join(launch.MITMDUMP)).splitlines()
    )
    return 2
