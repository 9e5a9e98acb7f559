"""Grading by a program of the teacher's (grading.command) instead of nbgrader: pytest, otter-grader, a shell script.

Run by: root; `teacher_child` as the teacher, `program` as an account of one submission. nbgrader need not be there.
"""
