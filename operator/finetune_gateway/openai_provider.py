"""A service with OpenAI's API at any base URL. The request goes there as it is, but for the model's name and the key."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from finetune_gateway.provider import SECRET_NOT_FOUND, Account, Json, ProviderFailure, events, post, read

KEY = "OPENAI_API_KEY"
"""Key of the Secret."""
HEADERS = {"OPENAI_ORG_ID": "OpenAI-Organization", "OPENAI_PROJECT_ID": "OpenAI-Project"}
"""Keys that say on whose account, and how that is sent."""
CA_BUNDLE = "CA_BUNDLE"
"""Key with the certificates of a private service's authority, in PEM."""
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
        url = f"{self.base_url.rstrip('/')}/{path}"
        return await post(self.session, url, account(self.who, self.secret), wish)


def account(who: str, secret: Path | None) -> Account:
    """From the mounted Secret, read each time: the kubelet renews it. Raises ProviderFailure where there is no key."""
    if secret is None:
        return Account(who, "")
    key = value(secret / KEY)
    if not key:
        message = f"Secret {secret.name!r} has no key {KEY}: create it in the deployment's namespace"
        raise ProviderFailure(HTTPStatus.UNAUTHORIZED, message, SECRET_NOT_FOUND)
    headers = {header: found for name, header in HEADERS.items() if (found := value(secret / name))}
    bundle = value(secret / CA_BUNDLE)
    return Account(who, key, headers, authorities(bundle) if bundle else True)


def value(file: Path) -> str:
    """A key of a Secret; empty where it is not there."""
    return file.read_text().strip() if file.is_file() else ""


@lru_cache(maxsize=2)
def authorities(bundle: str) -> ssl.SSLContext:
    """Those of a private service; made anew only when the bundle changes."""
    return ssl.create_default_context(cadata=bundle)
