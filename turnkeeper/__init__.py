"""The command line: runs the whole service or single processes, and holds the operators' commands."""
