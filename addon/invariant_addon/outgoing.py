"""HTTP to the services that the owner names: which addresses can be used, and whom to trust."""

from __future__ import annotations

import logging
import os
import ssl

import certifi
import httpx


def base_url(text: str) -> str:
    """The address without a slash at the end.

    Raises ValueError, which does not quote it: it may hold a password.
    """
    text = text.strip().rstrip("/")
    if any(c in text for c in "@?#"):
        # A user would be sent as Authorization, in the place of the key, and be said in logs.
        raise ValueError("expected a URL without user, query and fragment")
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("expected an http:// or https:// URL with a host")
    return text


def trust() -> ssl.SSLContext:
    """What the system trusts and what certifi lists; only SSL_CERT_FILE or _DIR if one is set.

    It takes some 30 ms: not on an event loop.
    """
    context = ssl.create_default_context()
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        context.load_verify_locations(certifi.where())
    return context


def quieten() -> None:
    """httpx says each request, and httpcore its headers, at levels that mitmproxy shows."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
