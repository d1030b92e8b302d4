"""Subscribes to a Ticker with a ticket, and is called back by a server that has keys: kerberos_sink.py PORT KEYTAB

Prints who called at which level, one line for each tick.
"""

import asyncio
import sys

import oxid
from oxid.samples.ticker import CLSID_TICKER, ITicker, ITickerSink


class Sink:
    def __init__(self):
        self.ticks = asyncio.Queue()

    async def on_tick(self, n, date):
        call = oxid.current_call()
        self.ticks.put_nowait(f"{n} {call.principal} {int(call.level)}")


async def main(port, keytab):
    callbacks = oxid.CallbackOptions(keytab=oxid.Keytab(keytab), advertise=("localhost",))
    options = oxid.ClientOptions(port=port, agent="machine", callbacks=callbacks)
    async with oxid.connect("localhost", oxid.Ticket(), options=options) as machine:
        async with machine.activate(CLSID_TICKER, ITicker) as ticker:
            sink = Sink()
            async with ticker.subscribe(ITickerSink, sink):
                await ticker.start(50, 3)
                for _ in range(3):
                    print(await sink.ticks.get())


asyncio.run(asyncio.wait_for(main(int(sys.argv[1]), sys.argv[2]), 30))
