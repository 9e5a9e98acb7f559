"""Slips: what a student needs to sign in, as cards to cut out and as mails.

Run by: the teacher, in a child of root's, and what that child starts; for a course of root's, the account nblauncher.
May import: auth, system.
"""
