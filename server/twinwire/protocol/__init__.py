"""What server/PROTOCOL.md says, without I/O: events, errors, commands, and how each is written on a wire."""
