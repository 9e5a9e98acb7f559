"""What runs nbgrader on one submission: cleans the notebooks, has a kernel execute them, and hands the result on.

Run by: an account that exists for this submission only, with the Python of grading.requirements, in a view of the host
(isolation.views) in which there is no network and nobody's files. The kernel is another account's process.
"""
