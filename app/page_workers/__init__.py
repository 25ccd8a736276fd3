"""Page workers: processes that render read-only pages, because one Python process runs one thread at a time.

`process` is such a process, `pool` the server's end, and `middleware` dispatches requests to the pool.
"""
