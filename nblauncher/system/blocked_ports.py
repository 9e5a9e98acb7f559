"""TCP ports that no browser connects to."""

BLOCKED_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080}
)
"""Those above 1023 that no browser connects to (the Fetch Standard's "port blocking")."""
