"""Extensions that run on threads, or on the loop where they are declared never to wait. isapi.md §1"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from oxid.iis.isapi import constants as c
from oxid.iis.isapi.application import Application, ApplicationSettings
from oxid.iis.isapi.blocking import BlockingControlBlock
from oxid.iis.isapi.control_block import ControlBlock
from oxid.iis.isapi.services import ServerServices
from oxid.iis.isapi.threads import WorkerThreads
from oxid.world import World

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange


class BlockingApplication(Application):
    """An application with a thread pool. Subclasses make the control block and call the proc."""

    def __init__(
        self,
        settings: ApplicationSettings,
        world: World,
        services: ServerServices | None = None,
        *,
        inline: bool = False,
    ) -> None:
        """`inline`: the proc and its callbacks run on the loop; they must never wait."""
        super().__init__(settings, world, services)
        self.inline = inline
        self.threads = WorkerThreads(settings.threads, f"oxid-{settings.name}")
        self._sending: set[asyncio.Task[None]] = set()

    def run(self, function: Any, *arguments: Any) -> None:
        """Run it where this application's code runs."""
        if self.inline:
            function(*arguments)
        else:
            self.threads.run(function, *arguments)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done: a loop holds its tasks weakly."""
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def begin(self, exchange: Exchange) -> None:
        block = self.block_for(exchange)
        if self.inline:
            self.call(block)
        else:
            self.threads.run(self.call, block)

    def block_for(self, exchange: Exchange) -> BlockingControlBlock:
        """The control block of a new request."""
        raise NotImplementedError

    def proc(self, block: Any) -> object:
        """Call HttpExtensionProc; what it returns. May raise."""
        raise NotImplementedError

    def call(self, block: Any) -> None:
        """HttpExtensionProc of one request, on whatever thread this is."""
        try:
            status = self.proc(block)
        except (Exception, SystemExit) as error:  # sys.exit() ends a request, not the server
            self.failed(block, error)
            status = c.HSE_STATUS_ERROR
        block.returned(status)
        if block._held is not None and self.inline:
            block.send_held()
        if status == c.HSE_STATUS_PENDING:
            if self.on_loop():
                self.pended(block)
            else:
                self.post(self.pended, block)

    def failed(self, block: BlockingControlBlock, error: BaseException) -> None:
        """The proc raised. S13"""
        self.fault(error)

    def ask_to_end(self, block: ControlBlock) -> None:
        if isinstance(block, BlockingControlBlock):
            block.abort_io(c.ERROR_OPERATION_ABORTED)

    async def terminate(self) -> None:
        """Tell the extension that it is unloaded; no request of it is live, or its time is over."""

    async def stop(self) -> None:
        await super().stop()
        await self.terminate()
        while self._sending:
            for task in self._sending:
                task.cancel()
            await asyncio.wait(self._sending)
        loop = self.loop
        await loop.run_in_executor(None, self.threads.close, self.settings.shutdown_limit)
