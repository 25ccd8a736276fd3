"""Reader processes: pages that only read are made beside the server, one process a core, for Python runs one thread at
a time.  `process` is such a process, `pool` the server's end of them, `middleware` what sends requests there."""
