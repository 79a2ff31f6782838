"""For all tests."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# Where tests run in the background of a shell, Ctrl-C is ignored, also by all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about what else the machine does than about the code; tests
# about speed measure processor time.
settings.register_profile("invariant", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("invariant")
