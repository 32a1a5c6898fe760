"""The log in a SQLite file, of one process at a time.

`log` is the `Store`. `file` opens the database, `lock` lets one process use it, `watch` notices that it is gone,
`tables` writes to it on the thread of `writer`, `reader` reads from it, `checkpoint` keeps its write-ahead log short.
"""
