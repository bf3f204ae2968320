"""Imports redis-py without OpenTelemetry. Where the extra `otel` is installed, redis-py would import all of its SDK
(0.3 s, 15 MB) for metrics that nobody here asks for. The package imports this before anything that imports redis-py."""

import sys

_IS_HIDDEN = "opentelemetry" not in sys.modules
if _IS_HIDDEN:
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]  # the import system's word for "cannot be found"
try:
    import redis  # noqa: F401
finally:
    if _IS_HIDDEN:
        del sys.modules["opentelemetry"]
