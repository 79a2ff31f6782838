"""Traces: kept on this machine, and sent to whoever asked for them."""
