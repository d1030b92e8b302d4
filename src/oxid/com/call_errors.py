"""How a method's exception becomes an answer, and what is written about it here. [MS-DCOM] 3.1.1.5.4"""

from __future__ import annotations

import logging
from typing import Any

from oxid.errors import ErrorInfo, StatusError, hresult_for
from oxid.values.status import HResult

log = logging.getLogger("oxid.com.object")


def answer_for(error: Exception, target: Any, method: str) -> tuple[int, ErrorInfo | None]:
    """The HRESULT and error info of a failed method; what the caller may not know is logged here."""
    code = hresult_for(error)
    if isinstance(error, StatusError):
        if code < 0x8000_0000:
            log.error("%s.%s raised the success code %s", type(target).__name__, method, HResult(code))
            code = 0x8000_4005
        return code, error.info
    if isinstance(error, NotImplementedError):
        return code, None
    log.error("%s.%s failed", type(target).__name__, method, exc_info=error)
    return code, None
