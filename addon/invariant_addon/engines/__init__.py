"""Engines judge conversations. They know asyncio and processes, and no mitmproxy."""
