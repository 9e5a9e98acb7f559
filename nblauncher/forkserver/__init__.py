"""Fork servers: root's preloaded processes that a class's notebook servers are forked from.

    supervisor ──(one packet a request, descriptors beside it)──> fork server ── fork, fork, drop ──> a student's server

A fork server imports, freezes and forks, and nothing else: no secret, no roster, no database, one thread, no event
loop. What a student's server may know reaches it as descriptors, which only the forked child reads.
"""
