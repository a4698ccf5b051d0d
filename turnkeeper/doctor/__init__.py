"""`turnkeeper doctor`: checks everything that the service depends on, and says how to fix what is wrong."""

from typing import Final

PROCFILE: Final = {"web": 2, "relay": 2, "worker": 1}
"""As many processes as the Procfile starts."""
