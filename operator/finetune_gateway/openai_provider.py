"""A service with OpenAI's API at any base URL. The request goes there as it is, but for the model's name and the key."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from finetune_gateway.provider import SECRET_NOT_FOUND, Json, ProviderFailure, events, post, read

KEY = "OPENAI_API_KEY"
"""Key of the Secret."""
BASE_URL = "https://api.openai.com/v1"


@dataclass(frozen=True)
class OpenAIProvider:
    """Where it is, and the key to it."""

    session: aiohttp.ClientSession
    base_url: str
    secret: Path | None
    """The mounted Secret; None: it wants no key."""
    is_chat_only: bool

    @property
    def who(self) -> str:
        """Its name in sentences."""
        return f"The provider at {urlsplit(self.base_url).netloc}"

    async def whole(self, path: str, wish: Json) -> Json:
        """One answer."""
        return await read(await self._post(path, wish), self.who)

    async def stream(self, path: str, wish: Json) -> AsyncGenerator[Json]:
        """Chunks."""
        async with aclosing(events(await self._post(path, wish), self.who)) as found:
            async for event in found:
                yield event

    async def _post(self, path: str, wish: Json) -> aiohttp.ClientResponse:
        return await post(self.session, f"{self.base_url.rstrip('/')}/{path}", self.who, self._key(), wish)

    def _key(self) -> str:
        """Read each time: the kubelet renews it."""
        if self.secret is None:
            return ""
        try:
            key = (self.secret / KEY).read_text().strip()
        except OSError:
            key = ""
        if not key:
            message = f"Secret {self.secret.name!r} has no key {KEY}: create it in the deployment's namespace"
            raise ProviderFailure(401, message, SECRET_NOT_FOUND)
        return key
