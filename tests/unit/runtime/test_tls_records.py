"""TLS hands several records to one call of stock asyncio: all of them arrive, and nothing of anybody else."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from tests.support.web import certificate, trusting

from oxid.runtime.tcp import face_of, shared_buffer


class Collector:
    """A connection that only listens."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        self.got += data

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, error: Exception | None) -> None:
        self.over.set_result(None)


def test_records_that_come_together_are_all_read(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    sent = [bytes([number]) * 100 for number in range(1, 40)]

    async def story() -> bytes:
        loop = asyncio.get_running_loop()
        collector = Collector()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        listener = await loop.create_server(lambda: face_of(collector, loop), "127.0.0.1", 0, ssl=context)
        buffer, _ = shared_buffer(loop)
        buffer[:] = b"s" * len(buffer)  # what somebody else's connection left there
        port = listener.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting(files), server_hostname="localhost"
        )
        for piece in sent:
            writer.write(piece)  # a record each, that go out and are read together
        writer.close()
        await collector.over
        listener.close()
        await listener.wait_closed()
        return bytes(collector.got)

    assert asyncio.run(story()) == b"".join(sent)
