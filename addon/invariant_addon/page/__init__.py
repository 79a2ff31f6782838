"""A page on this machine that shows the traces: `scripts/traces serve`. It knows no mitmproxy."""
