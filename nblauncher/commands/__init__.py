"""The commands: for each a module with a pure plan() and the steps that change the host.

`running/` is about the processes of a class, `deadlines/` about one moment for many students,
`teaching/` about the teacher's day.

Run by: root, for as long as the command takes; some steps also by the supervisor's schedule.
May import: preflight, planning, supervisor, grading, slurm, environments, exchange, frontends, server, slips, web,
accounts, auth, config, isolation, ledger, system.
"""
