"""The trace id of the running OpenTelemetry span, for calls without one of their own."""

from __future__ import annotations

import sys

__all__ = ["running_trace_id"]


def running_trace_id() -> str | None:
    """Return the trace id of the running span, as 32 hexadecimal digits; None without one.

    OpenTelemetry is not imported: where nothing has imported it, no span is running.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    try:
        span = trace.get_current_span().get_span_context()
        trace_id = f"{span.trace_id:032x}" if span.is_valid else None
    except Exception:  # noqa: BLE001  runs while an error is reported, which must not be lost
        return None
    return trace_id
