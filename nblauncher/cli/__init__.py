"""What a person types: reads the command line, prints, prompts and sets the exit code. No other room does.

Run by: root; `init`, `check` and `--help` by anyone; for as long as the command takes.
May import: commands, preflight, planning, config, system.
"""
