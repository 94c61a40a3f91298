"""Data sets of others -> session folders: one reader a format. `writing.py` says what a reader gives and writes the folder."""
