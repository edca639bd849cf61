"""The HTTP server around the service. It answers requests in flight before it stops."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import uvicorn

from lsr.service.app import app_around
from lsr.service.log import log_to
from lsr.service.protocol import protocol
from lsr.service.service import Service
from lsr.service.settings import Settings

SWITCH_SECONDS = 0.0002


def serve(
    directories: Sequence[Path],
    settings: Settings,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve indexes until SIGINT or SIGTERM; requests in flight are answered first.

    Args:
        directories: directories of indexes.
        settings: the operator's settings.
        started: called with the URL once requests are answered.

    Raises:
        FileNotFoundError, ValueError: an index cannot be opened.
        OSError: the address cannot be listened on.
    """
    log_to()
    with _listening(settings) as listener:
        service = Service(directories, settings)
        config = uvicorn.Config(
            app_around(lambda: service, settings),
            http=protocol(settings),
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=settings.drain_seconds,
        )
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        # One query is too small to use a second core, which Java, HTTP and clients can use instead.
        torch.set_num_threads(settings.model_threads)
        # Between torch's operations the engine's thread needs the interpreter lock again. With
        # Python's default it would wait until the event loop has finished with a request.
        sys.setswitchinterval(SWITCH_SECONDS)
        # All objects made so far stay alive. A collection that visited them would stop every answer
        # for some tenths of a second.
        gc.collect()
        gc.freeze()
        _Server(config, lambda: started(url)).run([listener])


def _listening(settings: Settings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        (family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error}") from error


class _Server(uvicorn.Server):
    """Uvicorn's server, which calls `started` when it answers requests."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()
