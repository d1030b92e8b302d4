"""What kind of content a file name promises. The usual types of the web, without asking the system's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DEFAULT: Final = "application/octet-stream"

TYPES: Final[Mapping[str, str]] = {
    ".7z": "application/x-7z-compressed",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".cab": "application/vnd.ms-cab-compressed",
    ".css": "text/css",
    ".csv": "text/csv",
    ".doc": "application/msword",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".eot": "application/vnd.ms-fontobject",
    ".gif": "image/gif",
    ".gz": "application/gzip",
    ".htm": "text/html",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".md": "text/markdown",
    ".mht": "message/rfc822",
    ".mjs": "text/javascript",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".ogg": "audio/ogg",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".ppt": "application/vnd.ms-powerpoint",
    ".rtf": "application/rtf",
    ".svg": "image/svg+xml",
    ".tar": "application/x-tar",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".ttf": "font/ttf",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xls": "application/vnd.ms-excel",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xml": "text/xml",
    ".xsl": "text/xml",
    ".zip": "application/zip",
}


def media_type(name: str, *own: Mapping[str, str]) -> bytes:
    """The type of a file name; tables of directory and site come before ours."""
    dot = name.rfind(".")
    extension = name[dot:].lower() if dot >= 0 else ""
    for table in (*own, TYPES):
        if (found := table.get(extension)) is not None:
            return found.encode("latin-1")
    return DEFAULT.encode()
