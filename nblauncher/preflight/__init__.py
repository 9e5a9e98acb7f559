"""`check` and `check --security`: find what could keep a class from working, before it starts. Changes nothing.

Each check is a function: texts, answers of programs and facts in, findings out.

Run by: root; most checks also without root.
May import: planning, supervisor, slurm, forkserver, environments, frontends, server, accounts, auth, config,
isolation, ledger, system.
"""
