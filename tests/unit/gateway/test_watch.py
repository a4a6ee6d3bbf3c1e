"""The watch over a model server that is away."""

import asyncio
from types import SimpleNamespace
from typing import Any

from finetune_gateway.server import ServerUnreachable
from finetune_gateway.watch import ServerWatch


async def test_a_server_that_is_away_is_asked_again_after_a_while_and_not_at_once() -> None:
    """Its own try goes the clients' way, and so says that the server should be looked at."""
    look, tries = asyncio.Event(), []

    async def complete(model: str) -> None:
        tries.append(model)
        await asyncio.sleep(0)
        look.set()
        raise ServerUnreachable("away")

    server = SimpleNamespace(up=asyncio.Event(), lock=asyncio.Lock())
    tools: Any = SimpleNamespace(server=server, complete=complete, changed=lambda: None)
    pool: Any = SimpleNamespace(adapters=[])
    watch = asyncio.create_task(ServerWatch(tools, pool, look).run())
    for _ in range(100):  # turns of the loop, of which a try takes a few
        await asyncio.sleep(0)
    assert tries == ["base"]
    look.set()  # a client's request failed meanwhile
    for _ in range(100):
        await asyncio.sleep(0)
    watch.cancel()
    assert tries == ["base", "base"]
