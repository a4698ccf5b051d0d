"""Turns traces on: the only place that decides, so that OpenTelemetry is not imported unless traces are on."""

from shared.configuration.settings import Settings
from shared.tracing.span import Recorder


def begin_tracing(settings: Settings, process: str) -> Recorder | None:
    """Return the recorder of a process's spans, None if traces are off. Nothing connects before the first span.

    Args:
        settings: The configuration.
        process: The process's name: `web`, `relay` or `worker`.
    """
    if not settings.traces_endpoint:
        return None
    from shared.tracing.tracer import Tracer

    return Tracer(settings.traces_endpoint, process)
