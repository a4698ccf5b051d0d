"""Starts the observation of a process, the same in all of them: its log, uncaught exceptions, errors in Sentry."""

from shared.configuration.settings import Settings
from shared.observing.error_reports import begin_error_reports
from shared.observing.logs import configure_logging, log_uncaught


def begin_observing(settings: Settings, process: str) -> None:
    """Start before anything else in the process; `process` is `web`, `relay` or `worker`."""
    configure_logging(settings.log_level, process, form=settings.log_format)
    log_uncaught()
    begin_error_reports(settings, process)
