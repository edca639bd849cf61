"""The page at `/` and what it loads, read once and sent with a strict policy."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, HTTPException, Request, Response

# No resources from other hosts, no inline scripts, no frames: even if a document's text were taken
# for markup, it could not run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
START = "index.html"


class _Asset(NamedTuple):
    content: bytes
    headers: dict[str, str]


def _read(path: Path) -> _Asset:
    content = path.read_bytes()
    return _Asset(
        content,
        {
            "Content-Type": TYPES[path.suffix],
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            # Browsers ask again each time, so that a page never mixes parts of two versions.
            "Cache-Control": "no-cache",
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        },
    )


_ASSETS = {
    path.name: _read(path)
    for path in sorted((Path(__file__).parent / "page").iterdir())
    if path.suffix in TYPES
}

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def start(request: Request) -> Response:
    """Send the page."""
    return _sent(START, request)


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def asset(name: str, request: Request) -> Response:
    """Send a part of the page.

    Raises:
        HTTPException: 404, the page has no such part.
    """
    if name not in _ASSETS or name == START:
        raise HTTPException(404)
    return _sent(name, request)


def _sent(name: str, request: Request) -> Response:
    content, headers = _ASSETS[name]
    known = [tag.strip().removeprefix("W/") for tag in _known(request).split(",")]
    if headers["ETag"] in known or known == ["*"]:
        kept = {key: value for key, value in headers.items() if key != "Content-Type"}
        return Response(status_code=304, headers=kept)
    return Response(content, headers=headers)


def _known(request: Request) -> str:
    """Return the version that the browser has: `If-None-Match`."""
    return request.headers.get("if-none-match", "")
