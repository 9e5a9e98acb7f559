"""Slurm as root's commands and the supervisor see it: submit a student's job, poll, cancel, and what a cluster is like.

Slurm is asked through its own commands, whose text has been the same for years (docs/decisions/slurm.md). Job names and
comments are written by students: nothing here believes them.

Run by: root, and children that became the student.
May import: system.
"""
