"""What keeps a student's processes apart and within limits: cgroups, namespaces, quotas, the freezer.

Run by: root.
May import: system.
"""
