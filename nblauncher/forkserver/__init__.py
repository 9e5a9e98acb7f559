"""Fork servers: preloaded processes from which a class's notebook servers and kernels are forked.

    supervisor ──(a packet per request, descriptors beside it)──> fork server ── fork, drop root ──> a student's server

A fork server imports, freezes and forks, and does nothing else: no secret, no roster, no database, one thread, no
event loop. What a student's server may know reaches it as descriptors, which only the forked child reads.

Run by: root, started by the supervisor; `kernels` in the Python of the course, with the standard library only.
May import: server, auth, isolation, system.
"""
