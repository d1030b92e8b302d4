"""One client command: connect to the target, do one thing within the time allowed, disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from oxid.cli.output import progress
from oxid.cli.parameters import Access
from oxid.config import Address, Target

if TYPE_CHECKING:
    from oxid.com.machine import Machine

T = TypeVar("T")


def converse(
    target: Target,
    access: Access,
    what: str,
    story: Callable[[Machine], Awaitable[T]],
    *,
    account_required: bool = False,
    probe: bool = False,
) -> T:
    """Run `story` with a connected machine; `what` is the progress line and the time-out's message."""
    from oxid.auth.context import AuthLevel
    from oxid.com.machine import connect
    from oxid.com.options import ClientOptions

    credentials = access.credentials(target, required=account_required)
    usual = ClientOptions.from_environment()
    options = replace(
        usual,
        port=target.port,
        level=AuthLevel(access.level),
        call_timeout=access.timeout_s,
        connect_timeout=access.timeout_s,
        release_timeout=min(access.timeout_s, usual.release_timeout),
        proxy=access.proxy.route(credentials, access.password_stdin),
    )

    async def run() -> T:
        try:
            async with asyncio.timeout(access.timeout_s):
                async with connect(target.host, credentials, options=options, probe=probe) as machine:
                    return await story(machine)
        except TimeoutError as error:
            place = str(Address(target.host, options.port)) + access.proxy.by_way_of
            text = f"{what}: no answer from {place} within {access.timeout_s:g} s"
            raise TimeoutError(text) from error

    with progress(what):
        return asyncio.run(run())
