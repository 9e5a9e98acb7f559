"""Versions of the students' material folders, in a store that only root can read."""
