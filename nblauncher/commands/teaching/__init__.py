"""The teacher's day: what comes before, beside and after the lesson itself."""
