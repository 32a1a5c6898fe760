"""The log in Redis Streams, which many workers share.

`log` is the `Store`. `link` sends commands, `scripts` has those in Lua, `reader` follows streams, `leases` ends the
runs of workers that have died, `control` carries cancels and presence, `check` notices what Redis has lost.
"""

OLDEST = (6, 2)
"""The oldest version of Redis or Valkey that has what the log needs."""
