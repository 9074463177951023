"""Learning with tables: the classics, one family a file."""
