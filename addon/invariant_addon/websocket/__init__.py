"""WebSockets of the Responses and Realtime APIs, judged message by message."""
