"""Signing in: passwords, hashes, the credentials file, tickets, throttling of guesses, pages for visitors.

Run by: root, the front page's account and the student; each module says which.
May import: system.
"""
