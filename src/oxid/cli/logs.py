"""How `oxid serve` logs: lines for people or JSON, on stderr or into a file that may be rotated (SIGHUP)."""

from __future__ import annotations

import json
import logging
import logging.handlers
from datetime import UTC, datetime

from oxid.config import HostOptions
from oxid.errors import ConfigurationError


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def start_logging(options: HostOptions, *, verbose: int = 0) -> None:
    """Send the log of everything below `oxid` where the options say; replaces what was set before."""
    handler: logging.Handler
    if options.log_file is None:
        handler = logging.StreamHandler()
    else:
        try:
            handler = logging.handlers.WatchedFileHandler(options.log_file, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"cannot log to {options.log_file}: {error.strerror}") from error
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if options.log_json else text)
    root = logging.getLogger("oxid")
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.propagate = False
    root.setLevel(logging.DEBUG if verbose else options.log_level.upper())
