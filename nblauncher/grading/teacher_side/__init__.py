"""What the teacher's account does in the environment that grades: nbgrader's own code on the teacher's folder.

Run by: the teacher, with the Python of grading.requirements, which has nbgrader and perhaps none of nblauncher's
packages.
"""
