"""The log in a SQLite file, of one process at a time.

`log` is the `Store`. `file` opens the database, `lock` lets one process use it, `watch` notices that it is gone, and
`opening` has all three. `tables` writes to it on the thread of `writer`; `conversations` and `resumable` are parts of
them. `reader` reads from it, `checkpoint` keeps its write-ahead log short. `orphans` are the runs that another process
left open, and `offers` gives them to this one.
"""
