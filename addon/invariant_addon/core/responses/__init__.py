"""The Responses dialect: items and events, over HTTP and WebSocket, to the one model, and back."""
