"""Turns traces on: the only place that decides, so that without them OpenTelemetry is never imported."""

from shared.configuration.settings import Settings
from shared.tracing.span import Recorder


def begin_tracing(settings: Settings, process: str) -> Recorder | None:
    """Return where a process's spans go, None where traces are off. Nothing connects or starts before the first span.

    Args:
        settings: The configuration.
        process: Which process speaks: `web`, `relay` or `worker`.
    """
    if not settings.traces_endpoint:
        return None
    from shared.tracing.tracer import Tracer

    return Tracer(settings.traces_endpoint, process)
