"""The exit codes of commands, besides 0 for success."""

from typing import Final

FAILED: Final = 1
WRONG_USE: Final = 2
"""Wrong use of the command line, or a wrong configuration."""
INTERRUPTED: Final = 130
