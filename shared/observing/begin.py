"""Lets a process be seen: its log, what nothing caught, and its errors at Sentry; the same in all of them."""

from shared.configuration.settings import Settings
from shared.observing.error_reports import begin_error_reports
from shared.observing.logs import configure_logging, log_uncaught


def begin_observing(settings: Settings, process: str) -> None:
    """Begin, before anything else of the process does.

    Args:
        settings: The configuration.
        process: Which process speaks: `web`, `relay` or `worker`.
    """
    configure_logging(settings.log_level, process, form=settings.log_format)
    log_uncaught()
    begin_error_reports(settings, process)
