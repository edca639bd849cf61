"""Answers to exceptions: a status, and a sentence that names the cause."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from lsr.indexes.lucene import IndexLockedError
from lsr.request import describe_errors
from lsr.service.bodies import GoneError, unread
from lsr.service.dispatcher import ClosedError, DeadlineError, OverloadedError

RETRY = {"Retry-After": "1"}
LONGEST_MESSAGE = 1000
# Exception → status and headers.
STATUS: tuple[tuple[type[Exception], int, dict[str, str]], ...] = (
    (OverloadedError, 429, RETRY),
    (DeadlineError, 504, {}),
    (TimeoutError, 504, {}),
    (ClosedError, 503, RETRY),
    (IndexLockedError, 503, RETRY),
    (GoneError, 410, {}),
    (KeyError, 404, {}),
    (ValueError, 400, {}),
)


def problem(
    status: int, message: str, request_id: str, headers: dict[str, str] | None = None
) -> Response:
    """Return an answer that says what is wrong.

    Args:
        status: HTTP status.
        message: a sentence; characters that UTF-8 cannot encode are escaped.
        request_id: id of the request.
        headers: further headers.
    """
    shown = message.encode("utf-8", "backslashreplace").decode()
    if len(shown) > LONGEST_MESSAGE:
        shown = shown[:LONGEST_MESSAGE] + "…"
    body = json.dumps({"error": shown, "request_id": request_id}, ensure_ascii=False)
    return Response(body, status, headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Make `app` answer the exceptions that its routes raise."""

    async def known(request: Request, error: Exception) -> Response:
        for kind, status, headers in STATUS:
            if isinstance(error, kind):
                message = error.args[0] if isinstance(error, KeyError) else str(error)
                return problem(status, str(message), _id(request), headers)
        raise error

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no {request.url.path} here"
        elif error.status_code == 405:
            message = f"{request.method} is not for {request.url.path}"
        elif error.status_code == 400 and error.__cause__:
            # FastAPI's own message does not say why the body could not be parsed.
            message = f"the body cannot be read: {unread(error.__cause__)}"
        return problem(error.status_code, message, _id(request), dict(error.headers or {}))

    async def unfit(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        details = error.errors()
        if any(detail["type"] == "json_invalid" for detail in details):
            reason = details[0].get("ctx", {}).get("error", "")
            return problem(400, f"the body is not valid JSON: {reason}", _id(request))
        return problem(422, _unfit(details), _id(request))

    async def of_system(request: Request, error: Exception) -> Response:
        if not isinstance(error, OSError) or error.errno != errno.ENOSPC:
            raise error
        return problem(507, error.strerror or "the disk is full", _id(request))

    app.add_exception_handler(OSError, of_system)
    for kind, _, _ in STATUS:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, unfit)


def _unfit(details: Sequence[Any]) -> str:
    """Describe FastAPI's validation errors: which field, what it may be, what was given."""
    shortened = []
    for detail in details:
        place, *path = detail["loc"]
        given = detail["input"]
        if isinstance(given, (str, list, dict)) and len(given) > 50:
            given = f"{type(given).__name__} of {len(given)}"
        if place == "body" and path:
            shortened.append({**detail, "loc": tuple(path), "input": given})
        else:
            shortened.append({**detail, "loc": (place, *path), "input": given})
    return describe_errors(shortened)


def _id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))
