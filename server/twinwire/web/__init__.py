"""The Litestar app: routes, what comes in and how errors look. Nothing but HTTP and WebSocket here."""
