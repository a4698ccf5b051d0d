"""The command line: the whole service from one command, its parts one by one, and what operators need."""
