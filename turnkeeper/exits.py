"""How a command ends: its exit codes, beside 0 for done."""

from typing import Final

FAILED: Final = 1
WRONG_USE: Final = 2
"""Of the command line or the configuration."""
INTERRUPTED: Final = 130
