"""Which public model name is answered by which model of the server, and what is still in use there.

Written by :mod:`finetune_gateway.adapter`, read by :mod:`finetune_gateway.proxy`; one event loop, so no locks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from finetune_api.pods import BASE_MODEL_NAME

BASE = BASE_MODEL_NAME


class UnknownModel(Exception):
    """No such model; the message lists those there are."""


class ModelUnavailable(Exception):
    """The model is known and cannot answer now; the message says why."""


@dataclass
class Target:
    """A model of the server under the server's name for it; stays loaded while held or while a request is under way."""

    name: str
    holders: int = 0
    requests: int = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is under way inside."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1


class Routes:
    """The table. An adapter is held under its digest-suffixed name before its public name points to it."""

    def __init__(self) -> None:
        self._targets = {BASE: Target(BASE, holders=1)}
        self._deployments: dict[str, tuple[str, Target | str]] = {}
        self._public: dict[str, Target | str] = {}

    def hold(self, name: str) -> Target:
        """Keep a model of the server loaded and reachable under the server's name for it; undone by :meth:`release`."""
        target = self._targets.setdefault(name, Target(name))
        target.holders += 1
        return target

    def release(self, target: Target) -> None:
        """Let it go once the requests under way are done."""
        target.holders -= 1

    def in_use(self) -> set[str]:
        """Names the server shall keep, the base included."""
        self._targets = {name: target for name, target in self._targets.items() if target.holders or target.requests}
        return set(self._targets)

    def publish(self, deployment: str, model: str, target: Target | str) -> None:
        """Point a deployment's public name to a target, or to the sentence that says why there is none."""
        self._deployments[deployment] = (model, target)
        self._public = dict(self._deployments.values())

    def withdraw(self, deployment: str) -> None:
        """Forget a deployment's public name."""
        del self._deployments[deployment]
        self._public = dict(self._deployments.values())

    def public(self) -> list[str]:
        """Public names that answer, the base first."""
        return [BASE, *sorted(model for model, target in self._public.items() if isinstance(target, Target))]

    def resolve(self, model: str) -> Target:
        """The target of a public name, or of a server's name that is held. Raises UnknownModel or ModelUnavailable."""
        target = self._public.get(model) or self._targets.get(model)
        if isinstance(target, str):
            raise ModelUnavailable(f"The model `{model}` cannot answer now: {target}")
        if target is None or not target.holders:
            raise UnknownModel(f"The model `{model}` does not exist; there are: {', '.join(self.public())}")
        return target
