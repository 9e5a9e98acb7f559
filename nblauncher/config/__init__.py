"""What the teacher writes: students.csv, notebooks.cfg, times, deadlines, requirements. Parsed and checked, pure.

Run by: root, and the user of `check`.
May import: system.
"""
