"""Grading: nbgrader's course folder, submissions run in confinement, results taken back as data, similarity.

Run by: root; `teacher_side` as the teacher and `judge_side` as an account of one submission, both in the environment
of grading.requirements.
May import: forkserver, environments, exchange, server, config, isolation, system.
"""
