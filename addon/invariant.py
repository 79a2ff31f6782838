"""Load me into mitmproxy: `mitmdump -s addon/invariant.py`."""

from invariant_addon.addon import Guardrails
from invariant_addon.perimeter.hooks import Perimeter
from invariant_addon.view import Views

addons = [Perimeter(), Guardrails(), Views()]
