"""Structured logs: one line per event, text or JSON, safe against injected line breaks.

Call `log.info("event", extra={"fields": {...}})`. Values are rendered as JSON, so nothing that a
peer sends can start a line of its own. Secrets are never passed in.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_LINE_BREAKS = str.maketrans({"\n": "\\n", "\r": "\\r", "\u2028": "\\u2028", "\x1b": "\\x1b"})


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _error(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "event", …fields}` on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        value: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if error := _error(record):
            value["error"] = error
        return json.dumps(value, default=str)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL event key=value …` on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        text = f"{time} {record.levelname.lower():7} {record.getMessage()}".translate(_LINE_BREAKS)
        for key, value in _fields(record).items():
            text += f" {key}={json.dumps(value, default=str)}"
        if error := _error(record):
            text += f" error={json.dumps(error)}"
        return text


def configure(*, as_json: bool) -> None:
    """Send this process's logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
