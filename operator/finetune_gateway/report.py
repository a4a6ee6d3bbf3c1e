"""The line to the operator: says what is loaded, and hears what is wanted.

Every 2 s and on change; the reply is the wish. Until the first reply the mounted pool.json counts, and when the operator
is away the last reply goes on counting.
"""

import asyncio
import contextlib
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import ValidationError

from finetune_api.pods import DesiredPool
from finetune_gateway.pool import Pool

log = logging.getLogger(__name__)

REPORT_SECONDS = 2
TIMEOUT = aiohttp.ClientTimeout(total=10)


class NoReply(Exception):
    """The operator gave no usable answer."""


@dataclass(frozen=True)
class ReportServer:
    """Where to report, and how."""

    url: str
    token_file: Path
    """Projected token; rotated by the kubelet, so read each time."""
    ca_file: Path | None = None


class Reporter:
    """Talks to the operator on behalf of the pool."""

    def __init__(self, session: aiohttp.ClientSession, server: ReportServer, pool: Pool[Any], config: Path) -> None:
        self._session = session
        self._server = server
        self._pool = pool
        self._config = config
        self._replied = False
        self._failing = False
        # Trust only the CA we were given, where there is one.
        self._tls = ssl.create_default_context(cafile=str(server.ca_file)) if server.ca_file else True

    async def run(self, changed: asyncio.Event) -> None:
        """Report for ever."""
        while True:
            changed.clear()
            try:
                self._pool.desire(await self._post())
                self._heard(None)
            except NoReply as error:
                self._heard(error)
                self._read_mounted()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await changed.wait()

    async def _post(self) -> DesiredPool:
        try:
            headers = {"Authorization": f"Bearer {self._server.token_file.read_text().strip()}"}
            async with self._session.post(
                self._server.url, json=self._pool.report().wire(), headers=headers, timeout=TIMEOUT, ssl=self._tls
            ) as response:
                body = await response.read()
                if response.status != 200:
                    raise NoReply(f"HTTP {response.status}: {body[:200].decode(errors='replace')}")
                return DesiredPool.model_validate_json(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as error:
            raise NoReply(f"{type(error).__name__}: {error}") from error

    def _heard(self, error: NoReply | None) -> None:
        """Log the first failure and the recovery, not every 2 s."""
        if error is not None and not self._failing:
            log.warning("reporting to %s: %s; going on with what is known", self._server.url, error)
        if error is None and self._failing:
            log.info("reporting again")
        self._failing = error is not None
        self._replied = self._replied or error is None

    def _read_mounted(self) -> None:
        """Follow the mounted file while no reply has ever come; after one it can only be older."""
        if not self._replied:
            self._pool.desire(read_wanted(self._config))


def read_wanted(config: Path) -> DesiredPool:
    """The mounted pool.json."""
    return DesiredPool.model_validate_json(config.read_bytes())
