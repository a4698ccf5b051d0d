"""The command line: the whole service in one command, its parts one by one, and what operators need."""
