"""A filter that leaves its marks on a request, and notes what it hears in the file of OXID's test."""

from __future__ import annotations

import os
from typing import Any

from isapi import isapicon as i
from isapi.simple import SimpleFilter

NAMES = {getattr(i, name): name[10:] for name in dir(i) if name.startswith("SF_NOTIFY_")}


class Filter(SimpleFilter):
    "Marks for tests"

    filter_flags = (
        i.SF_NOTIFY_PREPROC_HEADERS
        | i.SF_NOTIFY_AUTHENTICATION
        | i.SF_NOTIFY_URL_MAP
        | i.SF_NOTIFY_ACCESS_DENIED
        | i.SF_NOTIFY_SEND_RESPONSE
        | i.SF_NOTIFY_LOG
        | i.SF_NOTIFY_END_OF_REQUEST
        | i.SF_NOTIFY_END_OF_NET_SESSION
        | i.SF_NOTIFY_ORDER_HIGH
        | i.SF_NOTIFY_NONSECURE_PORT
        | i.SF_NOTIFY_SECURE_PORT
    )
    if "FILTER_RAW" in os.environ:
        filter_flags |= i.SF_NOTIFY_READ_RAW_DATA | i.SF_NOTIFY_SEND_RAW_DATA

    def HttpFilterProc(self, fc: Any) -> int | None:
        kind = fc.NotificationType
        with open(os.environ["FILTER_NOTES"], "a", encoding="utf-8") as out:
            print(NAMES.get(kind, kind), fc.FilterContext, file=out)
        data = fc.GetData()
        if kind == i.SF_NOTIFY_PREPROC_HEADERS:
            fc.FilterContext = (fc.FilterContext or 0) + 1
            url = data.GetHeader("url")
            if url == b"/answer":
                fc.SendResponseHeader("200 OK", "Content-Length: 6\r\n\r\n")
                fc.WriteClient("filter")
                return i.SF_STATUS_REQ_FINISHED_KEEP_CONN
            if url == b"/broken":
                raise RuntimeError("on purpose")
            if url.startswith(b"/old"):
                data.SetHeader("url", "/files" + url[4:].decode())
            data.SetHeader("X-Filtered:", "yes")
            fc.AddResponseHeaders("X-Added: by filter\r\n")
        elif kind == i.SF_NOTIFY_URL_MAP and data.URL == b"/files/other.txt":
            data.PhysicalPath = data.PhysicalPath.replace(b"other", b"page")
        elif kind == i.SF_NOTIFY_SEND_RESPONSE:
            data.SetHeader("X-Count:", str(fc.FilterContext))
        elif kind == i.SF_NOTIFY_SEND_RAW_DATA:
            data.InData = data.InData.replace(b"file content", b"FILE CONTENT")
        elif kind == i.SF_NOTIFY_READ_RAW_DATA:
            data.InData = data.InData.replace(b"/secret", b"/files")
        return None


def __FilterFactory__() -> Filter:
    return Filter()
