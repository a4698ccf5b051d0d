"""Starts the observation of a process, the same in all of them: its log, uncaught exceptions, errors in Sentry."""

import os
from typing import Final

from shared.configuration.settings import Settings
from shared.observing.error_reports import begin_error_reports
from shared.observing.logs import configure_logging, log_uncaught

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


def begin_observing(settings: Settings, process: str) -> None:
    """Start before anything else in the process; `process` is `web`, `relay` or `worker`."""
    configure_logging(settings.log_level, process, form=settings.log_format)
    log_uncaught()
    keep_local_direct()
    begin_error_reports(settings, process)


def keep_local_direct() -> None:
    """Let what observes reach a collector on this machine itself: it heeds the environment's proxies, which cannot.

    The variable is read by requests and urllib3; nothing else of the service uses a proxy.
    """
    for name in ("no_proxy", "NO_PROXY"):
        named = [each.strip() for each in os.environ.get(name, "").split(",") if each.strip()]
        if "*" not in named:
            os.environ[name] = ",".join(dict.fromkeys((*named, *_LOCAL)))
