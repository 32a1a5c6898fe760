"""The log in Redis Streams, which many workers share.

`log` is the `Store`. `link` sends commands, `scripts` has those in Lua, `reader` follows streams, `trim` waits for
followers, `leases` finds the runs of workers that have died and `orphans` sees to them, `control` and `inbox` carry
what is said to runs, and presence, `check` notices what Redis has lost.
"""

OLDEST = (6, 2)
"""The oldest version of Redis or Valkey that has what the log needs."""
