"""The service's log: one JSON object a line on stderr."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

# The loggers that write here: our own, and the server's.
LOGGERS = ("lsr.service", "uvicorn.error")
# ASCII only: a path may contain characters that a terminal would act on.
_encode = json.JSONEncoder(default=str).encode


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON, with the fields of `extra={"fields": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line: time, level, message, the fields, and a traceback if there is one."""
        time = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line)


def log_to(stream: TextIO | None = None, level: int | str = logging.INFO) -> None:
    """Send the service's log to a stream, and nowhere else.

    Args:
        stream: where to write; stderr by default.
        level: the lowest level that is written.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
