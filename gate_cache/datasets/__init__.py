"""Data sets: all that knows a data set's files. Floor 3."""
