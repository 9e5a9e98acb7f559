"""The front page, and the porter that answers for servers that are not running.

Run by: the system account nblauncher, started by the supervisor.
May import: auth, system.
"""
