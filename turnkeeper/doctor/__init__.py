"""`turnkeeper doctor`: looks at everything that the service needs, and says what to do about what is wrong."""

from typing import Final

PROCFILE: Final = {"web": 2, "relay": 2, "worker": 1}
"""As many processes as the Procfile starts."""
