"""A course's own Python packages (notebook.requirements): chosen, downloaded and built apart, then installed.

Run by: root; `source_package` as the account nblauncher-build.
May import: config, isolation, system.
"""
