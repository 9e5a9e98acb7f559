"""Class lists as a school's system exports them: bytes of a table in, a roster out. Pure, and bounded by the caller."""
