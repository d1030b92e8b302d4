"""Answers the server variables that the query names, one `name=value` a line; `name!errno` for those that fail."""

from __future__ import annotations

from typing import Any

from isapi import ExtensionError
from isapi.simple import SimpleExtension


class Extension(SimpleExtension):
    "Variables for tests"

    def HttpExtensionProc(self, ecb: Any) -> int:
        lines = []
        for name in ecb.QueryString.decode().partition("&")[0].split(","):
            try:
                lines.append(f"{name}={ecb.GetServerVariable(name)!r}")
            except ExtensionError as error:
                lines.append(f"{name}!{error.errno}")
        body = "\n".join(lines).encode()
        ecb.SendResponseHeaders("200 OK", f"Content-Length: {len(body)}\r\n\r\n", True)
        ecb.write(body)
        return 2


def __ExtensionFactory__() -> Extension:
    return Extension()
