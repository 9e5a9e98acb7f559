"""The supervisor: a small root process, one per course, that holds a class's sockets, logs and exits.

It does not load Jupyter, parse bytes that a student sent, or speak HTTP. Commands talk to it with `client`.

Run by: root, from `launch` until the class ends.
May import: slurm, forkserver, server, isolation, system.
"""
