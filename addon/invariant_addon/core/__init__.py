"""The pure ring: bytes and values in, values out.

Nothing in here knows mitmproxy, httpx, asyncio, processes, files, the environment or the clock.
"""
