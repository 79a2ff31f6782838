"""Work that nobody waits for: kept until it is done, with a name that mitmproxy shows."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from mitmproxy.utils import asyncio_utils


def in_background[T](work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    return asyncio_utils.create_task(work, name=f"invariant: {name}", keep_ref=True)
