"""Deadlines: copies beforehand, capture, publishing, freeze and thaw, assignments. Run by root."""
