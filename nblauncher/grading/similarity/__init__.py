"""Which submissions of an assignment are alike: read, fold into tokens, winnow, compare, write one page."""
