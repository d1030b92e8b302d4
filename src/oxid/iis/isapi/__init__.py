"""The ISAPI host: extensions, filters, control blocks and who holds them.

    from oxid.iis.isapi import AsyncControlBlock, HSE_STATUS_PENDING, IsapiError      what an extension needs

Extensions of the asynchronous interface are written against these names alone; see `asynchronous.py`.
"""

from __future__ import annotations

from oxid.iis.isapi.asynchronous import AsyncControlBlock, AsyncExtension
from oxid.iis.isapi.constants import (
    HSE_STATUS_ERROR,
    HSE_STATUS_PENDING,
    HSE_STATUS_SUCCESS,
    HSE_STATUS_SUCCESS_AND_KEEP_CONN,
)
from oxid.iis.isapi.failures import IsapiError

__all__ = [
    "HSE_STATUS_ERROR",
    "HSE_STATUS_PENDING",
    "HSE_STATUS_SUCCESS",
    "HSE_STATUS_SUCCESS_AND_KEEP_CONN",
    "AsyncControlBlock",
    "AsyncExtension",
    "IsapiError",
]
