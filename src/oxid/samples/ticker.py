"""The Ticker: an object that calls its clients back at intervals. The contract, section 6

async with machine.activate(CLSID_TICKER, ITicker) as ticker:
    async with ticker.subscribe(ITickerSink, lambda n, date: print(n)):
        await ticker.start(1000, 10)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Final
from uuid import UUID

from oxid.com.coclass import coclass
from oxid.com.connection_points import EventSource
from oxid.errors import hresult
from oxid.interfaces.connection_point import IConnectionPointContainer
from oxid.interfaces.unknown import IUnknown
from oxid.ndr.types import F64, U32
from oxid.rpc.interface import interface, operation
from oxid.runtime.dispatch import current_call
from oxid.samples.calculator import APPID_SAMPLES
from oxid.values.status import E_INVALIDARG
from oxid.world import Clock

CLSID_TICKER: Final = UUID("a5d1d10e-a0e5-4b5f-970a-9144e1a47ea2")
IID_ITICKER: Final = UUID("c6c27968-281e-466b-be50-827e38d44643")
IID_ITICKERSINK: Final = UUID("26b22f5a-067e-401c-9e1c-1af3d8850ecb")
PROGID: Final = "Oxid.Ticker"

_DAY_S: Final = 86_400.0
_EPOCH_AS_OLE_DATE: Final = 25_569.0
"""1970-01-01 in days since 1899-12-30. [MS-OAUT] 2.2.25"""


@interface(IID_ITICKER)
class ITicker(IUnknown):
    """Starts and stops the ticks."""

    @operation(3, names={"interval_milliseconds": "intervalMilliseconds"})
    async def start(self, interval_milliseconds: U32, count: U32) -> None:
        """Tick every so often, `count` times or (0) until `stop`; begins anew where it ticks already.

        An interval of 0 is E_INVALIDARG.
        """
        raise NotImplementedError

    @operation(4)
    async def stop(self) -> None:
        """Tick no more; nothing happens where it does not."""
        raise NotImplementedError


@interface(IID_ITICKERSINK)
class ITickerSink(IUnknown):
    """Hears the ticks."""

    @operation(3)
    async def on_tick(self, n: U32, date: F64) -> None:
        """The `n`th tick since the start, with its time as an OLE DATE in UTC."""
        raise NotImplementedError


@coclass(CLSID_TICKER, implements=[ITicker, IConnectionPointContainer], progid=PROGID, appid=APPID_SAMPLES)
class Ticker(EventSource):
    """Implements ITicker; its timer belongs to it and ends with it."""

    events: ClassVar[Sequence[type[Any]]] = (ITickerSink,)

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def start(self, interval_milliseconds: int, count: int) -> None:
        if not interval_milliseconds:
            raise hresult(
                E_INVALIDARG, "the interval is at least a millisecond", source=PROGID, iid=IID_ITICKER
            )
        self.stop()
        clock: Clock = current_call().connection.core.world.clock
        interval = interval_milliseconds / 1000
        loop = asyncio.get_running_loop()
        began = loop.time()

        def tick(n: int) -> None:
            self.point(ITickerSink).fire("on_tick", n, ole_date(clock))
            if n != count:
                # From the beginning, not from now: ticks do not drift.
                self._timer = loop.call_at(began + (n + 1) * interval, tick, n + 1)
            else:
                self._timer = None

        self._timer = loop.call_at(began + interval, tick, 1)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def final_release(self) -> None:
        """The last client is gone: so are the ticks."""
        self.stop()
        super().final_release()


def ole_date(clock: Clock) -> float:
    """Now in days since 1899-12-30, UTC. [MS-OAUT] 2.2.25"""
    return clock.utc() / _DAY_S + _EPOCH_AS_OLE_DATE
