"""uvicorn within bounds: connections, frames, HTTP/2, worker processes."""
