"""What ASGI frameworks make of the scope of a request, and put into it: the handler that it was routed to, its route."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import Any, Final

from .asgi_messages import Scope

__all__ = ["COPIED", "handler_of", "is_routed_in_copy", "placeholder", "request_in", "route_of"]

COPIED: Final = (
    "a middleware between ResponseCache and the router passes a copy of the scope on: add ResponseCache before that "
    "middleware, so that it is called after it, or use its rules"
)
"""Why it is not known which handler a request was routed to."""


def handler_of(scope: Scope) -> Any:
    """Return the handler that Starlette, FastAPI or Litestar routed a request to; None if it is not known."""
    handler = scope.get("endpoint")
    return getattr(scope.get("route_handler"), "fn", None) if handler is None else handler


def request_in(scope: Scope) -> Any:
    """Return the request as handlers get it; the scope if the program imports neither Starlette nor Litestar.

    Outside of an application of Starlette, the scope does not tell which framework follows. A request of Starlette is a
    mapping of the scope, too.
    """
    package = "litestar" if "litestar_app" in scope else "starlette.requests"
    framework = sys.modules.get(package) or sys.modules.get("litestar")
    return scope if framework is None else framework.Request(scope)


def is_routed_in_copy(scope: Scope) -> bool:
    """Return whether a framework was called with this scope, and has routed the request in a copy of it."""
    return "app" in scope and "endpoint" not in scope and "route_handler" not in scope


def route_of(scope: Scope) -> str:
    """Return the path template of a route, or else the qualified name of its handler.

    The template begins with the path that the application is mounted at, as far as that is the same for all requests.
    """
    path = getattr(scope.get("route"), "path", None)
    if path is not None:
        return _mounted_at(scope, str(path)) + str(path)
    return str(scope.get("path_template") or getattr(handler_of(scope), "__qualname__", ""))


def placeholder(scope: Scope) -> Any:
    """Return a response that the framework sends as it is, and that the middleware replaces.

    Raises:
        RuntimeError: the framework is not known.
    """
    for key, package in (("endpoint", "starlette.responses"), ("route_handler", "litestar")):
        if key in scope:
            return import_module(package).Response(None)
    raise RuntimeError(
        "cache_response works for handlers of FastAPI, Starlette and Litestar: use the rules of ResponseCache"
    )


def _mounted_at(scope: Scope, path: str) -> str:
    """Return the template of the path that Starlette has matched before the route; no text if it is not known."""
    outer, inner = scope.get("app_root_path"), scope.get("root_path", "")
    if outer is None or not inner.startswith(outer):
        return ""
    prefix: str = inner[len(outer) :]
    for name, value in scope.get("path_params", {}).items():
        if not re.search(rf"{{{name}[:}}]", path):
            prefix, found = re.subn(
                rf"/{re.escape(str(value))}(?=/|$)", f"/{{{name}}}", prefix, count=1
            )
            if not found:
                # A value that is written in several ways, such as a number with leading zeros.
                return ""
    return prefix
