"""The content of server/PROTOCOL.md, without I/O: events, errors, commands, and how each is written on a wire."""
