"""The supervisor: a small root process, one per course, that holds a class's sockets, logs and exits.

It imports nothing of Jupyter, parses nothing of the students' and speaks no HTTP. Commands talk to it with `client`.
"""
