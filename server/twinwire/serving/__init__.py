"""uvicorn within bounds.

`shell` is the server and its protocols. `bounds` limits HTTP/1.1, `websocket` frames, `http2` HTTP/2. `direct` writes
frames without ASGI. `workers` supervises processes, `allocator` returns memory, `ceiling` says what all may come to.
"""
