"""invariant: a guardrail proxy for OpenAI traffic, as a mitmproxy addon."""

__version__ = "0.1.0"
