"""A student's notebook server, its kernels and its terminals.

`kernel`, `kernel_sockets`, `terminal` and `ipython_dir` are also run as files and import nothing else of this package.

Run by: the student.
May import: auth, isolation, system.
"""
