"""Plans as data: phases of steps, the facts that they are made from, and the host that they are applied to.

Run by: root, for as long as the command takes.
May import: environments, exchange, frontends, accounts, config, ledger, system.
"""
