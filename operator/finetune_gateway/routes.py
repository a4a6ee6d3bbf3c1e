"""Which public model name is answered by which model where, and what is still in use on the model server.

Written by :mod:`finetune_gateway.adapter` and :mod:`finetune_gateway.pool`, read by :mod:`finetune_gateway.proxy`; one event
loop, so no locks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from finetune_api.pods import ADAPTER_HEADER, BASE_MODEL_NAME, MAX_SHARE_MESSAGE, DesiredAdapter, DesiredShare
from finetune_api.v1alpha1.adapterdeployment import BASE_SHARE, OWN_SHARE, ShareStatus
from finetune_gateway.split import pick
from finetune_gateway.upstream import Upstream

BASE = BASE_MODEL_NAME


class UnknownModel(Exception):
    """No such model; the message lists those there are."""


class ModelUnavailable(Exception):
    """The model is known and cannot answer now; the message says why."""


@dataclass
class Target:
    """A model under its server's name for it; stays loaded while held or while a request is under way."""

    name: str
    upstream: Upstream
    holders: int = 0
    requests: int = 0
    trouble: str | None = None
    """Why a split sends nothing here, though clients may ask for it by name: they get the reason from whoever knows it."""

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is under way inside."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1


class Route(NamedTuple):
    """Where a request goes."""

    target: Target
    share: str | None = None
    """The share of a split it is."""


class Routes:
    """The table. An adapter is held under its digest-suffixed name before its public name points to it."""

    def __init__(
        self, upstream: Upstream, base: str | None, peer: Callable[[DesiredShare], Target], random: Random
    ) -> None:
        self._upstream = upstream
        self._peer = peer
        self._random = random
        self._targets: dict[str, Target] = {}
        if base is not None:
            self._targets[BASE] = Target(base, upstream, holders=1)
        self._deployments: dict[str, tuple[str, Target | str]] = {}
        """Public name and own adapter (or why there is none) by deployment."""
        self._public: dict[str, str] = {}
        """Deployment by public name."""
        self._splits: dict[str, DesiredAdapter] = {}

    def hold(self, name: str, model: str | None = None) -> Target:
        """Keep a model loaded and reachable under ``name``; ``model`` is the server's own name for it, where that is another.

        Undone by :meth:`release`.
        """
        target = self._targets.setdefault(name, Target(model or name, self._upstream))
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
        self._index()

    def withdraw(self, deployment: str) -> None:
        """Forget a deployment's public name."""
        del self._deployments[deployment]
        self._index()

    def _index(self) -> None:
        self._public = {model: deployment for deployment, (model, _) in self._deployments.items()}

    def split(self, wanted: Mapping[str, DesiredAdapter]) -> None:
        """Set how the deployments' public names are split, by deployment."""
        self._splits = {name: desired for name, desired in wanted.items() if desired.split}

    def shares(self, deployment: str) -> list[ShareStatus] | None:
        """The split of a deployment's public name, with what keeps a share from getting anything."""
        if deployment not in self._splits:
            return None
        return [
            ShareStatus(adapter=share.adapter, weight=share.weight, message=part if isinstance(part, str) else None)
            for share, part in self._parts(deployment)
        ]

    def _parts(self, deployment: str) -> Iterator[tuple[DesiredShare, Target | str]]:
        for share in self._splits[deployment].split or []:
            part = self._part(deployment, share)
            yield share, part[:MAX_SHARE_MESSAGE] if isinstance(part, str) else part

    def _part(self, deployment: str, share: DesiredShare) -> Target | str:
        if share.message is not None:
            return share.message
        if share.url is not None:
            return self._peer(share)
        if share.adapter == BASE_SHARE:
            return self._targets.get(BASE) or "this pool has no base model"
        name = deployment if share.adapter == OWN_SHARE else share.adapter
        if name not in self._deployments:
            return f"AdapterDeployment {name} is not served by this pod"
        own = self._deployments[name][1]
        return own if isinstance(own, str) or own.trouble is None else own.trouble

    def public(self) -> list[str]:
        """Public names that answer, the base first."""
        base = [BASE] if BASE in self._targets else []
        return [*base, *sorted(model for model in self._public if self._answers(model))]

    def _answers(self, model: str) -> bool:
        own = self._own(model)
        return isinstance(own, Target) and own.trouble is None

    def _own(self, model: str) -> Target | str:
        """Any target of a public name, or why there is none."""
        deployment = self._public[model]
        if deployment not in self._splits:
            return self._deployments[deployment][1]
        parts = [(share, part) for share, part in self._parts(deployment) if share.weight]
        reasons = "; ".join(f"{share.adapter}: {part}" for share, part in parts if isinstance(part, str))
        return next((part for _, part in parts if isinstance(part, Target)), f"nothing of its split can: {reasons}")

    def is_public(self, model: str) -> bool:
        """Whether a name is for clients, not a server's own."""
        return BASE in self._targets if model == BASE else model in self._public

    def resolve(self, model: str, headers: Mapping[str, str], user: str | None) -> Route:
        """The way of a request: by a public name, or by a server's name that is held. Raises UnknownModel or ModelUnavailable."""
        deployment = self._public.get(model)
        if deployment is None:
            held = self._targets.get(model)
            if held is None or not held.holders:
                raise UnknownModel(f"The model `{model}` does not exist; there are: {', '.join(self.public())}")
            return Route(held)
        if deployment not in self._splits or headers.get(ADAPTER_HEADER) == OWN_SHARE:
            return self._route(model, self._deployments[deployment][1])
        sticky = self._splits[deployment].sticky_header
        key = (sticky and headers.get(sticky)) or user or None
        parts = {share.adapter: (share.weight, part) for share, part in self._parts(deployment)}
        live = {name: weight for name, (weight, part) in parts.items() if isinstance(part, Target)}
        chosen = pick(live, model, key, self._random)
        return self._route(model, self._own(model) if chosen is None else parts[chosen][1], chosen)

    def _route(self, model: str, found: Target | str, share: str | None = None) -> Route:
        if isinstance(found, str):
            raise ModelUnavailable(f"The model `{model}` cannot answer now: {found}")
        return Route(found, share)
