"""Other servers that do the same work: each a small program on its own library, in an environment of its own.

`python -m benchmarks.peers.NAME` prints its port. `GET /sse?message=…&topic=…`, and a WebSocket at `/ws` whose
first message is `{"message", "topic"}`, give the events of a load (`benchmarks.schedule`). All who name one topic share
a run.
"""
