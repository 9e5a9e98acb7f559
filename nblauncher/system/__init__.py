"""Doors to the operating system: processes, privileges, files, descriptors, sockets, logs.

Run by: every process; each module says what it needs.
May import: only the ground modules.
"""
