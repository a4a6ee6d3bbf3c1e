"""The only Kubernetes client: few verbs over plain objects, with timeouts, retries and a count of every call.

Raises :class:`ApiError`; :mod:`finetune_operator.workers` turns it into a later try.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from finetune_operator import metrics
from finetune_operator.cache import CHILD_SELECTOR, OPERATOR, WATCHED, Kind, Manifest
from finetune_operator.plan import Ref

KINDS: Mapping[str, Kind] = {
    **WATCHED,
    "ServiceAccount": Kind("v1", "serviceaccounts"),
    "Event": Kind("v1", "events"),
    "Namespace": Kind("v1", "namespaces"),
    "TokenReview": Kind("authentication.k8s.io/v1", "tokenreviews"),
}
TIMEOUT = aiohttp.ClientTimeout(total=30)
RETRY_DELAYS = (0.2, 1.0, 3.0)
"""Longer outages are the key queue's: it backs off per key."""
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class ApiError(Exception):
    """A refused call: HTTP status (0: no answer) and the API server's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def retryable(status: int) -> bool:
    """Whether the same call may succeed in a moment."""
    return status in (0, HTTPStatus.TOO_MANY_REQUESTS) or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def path(kind: str, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
    """Path of a collection, an object or a subresource."""
    known = KINDS[kind]
    root = "/api/" if known.api_version == "v1" else "/apis/"
    parts = [known.api_version]
    parts += ["namespaces", quote(namespace, safe="")] if namespace else []
    parts += [known.plural, *(quote(part, safe="") for part in (name, subresource) if part)]
    return root + "/".join(parts)


def resource_of(target: str) -> str:
    """The resource a path is about: what follows the namespace, or comes last."""
    before, namespaced, after = target.partition("/namespaces/")
    if namespaced:
        return after.split("/")[1] if "/" in after else "namespaces"
    return before.rsplit("/", 1)[-1]


async def connect() -> "Cluster":
    """Connect as the kubeconfig says, or as the pod's service account."""
    configuration = client.Configuration()
    configuration.disable_strict_ssl_verification = True  # see watch.Connection
    if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        config.load_incluster_config(client_configuration=configuration)
    else:
        kubeconfig = os.environ.get("KUBECONFIG", str(Path.home() / ".kube" / "config"))
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    return Cluster(client.ApiClient(configuration))


class Cluster:
    """Calls to the API server; objects in and out are plain JSON."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def get(self, ref: Ref) -> Manifest | None:
        """The object, or None."""
        try:
            return await self._call("GET", path(ref.kind, ref.namespace, ref.name))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def list_all(self, kind: str, namespace: str | None, *, metadata_only: bool = False) -> list[Manifest]:
        """All objects of a watched kind, as of now; children by the label managed-by."""
        query = {} if WATCHED[kind].ours else {"labelSelector": CHILD_SELECTOR}
        headers = {"Accept": METADATA_ONLY} if metadata_only else {}
        answer = await self._call("GET", path(kind, namespace), query=query, headers=headers)
        named = {"apiVersion": KINDS[kind].api_version, "kind": kind}  # items of a list carry neither
        return [{**item, **named} for item in answer.get("items") or []]

    async def warnings(self, ref: Ref) -> list[Manifest]:
        """Warning events about an object, which is known by its uid."""
        query = {"fieldSelector": f"involvedObject.uid={ref.uid},type=Warning", "limit": "50"}
        answer = await self._call("GET", path("Event", ref.namespace), query=query)
        return list(answer.get("items") or [])

    async def pods(self, job: Ref) -> list[Manifest]:
        """The pods of a batch/v1 Job, which is known by its uid."""
        query = {"labelSelector": f"batch.kubernetes.io/controller-uid={job.uid}"}
        answer = await self._call("GET", path("Pod", job.namespace), query=query)
        return list(answer.get("items") or [])

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object; ApiError 409 when the name is taken."""
        return await self._call("POST", path(manifest["kind"], manifest["metadata"].get("namespace")), body=manifest)

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply, taking over the fields of the manifest."""
        meta = manifest["metadata"]
        return await self._call(
            "PATCH",
            path(manifest["kind"], meta["namespace"], meta["name"]),
            body=manifest,
            query={"fieldManager": OPERATOR, "force": "true"},
            headers={"Content-Type": "application/apply-patch+yaml"},
        )

    async def delete(self, ref: Ref) -> None:
        """Delete an object and, in the background, what it owns; gone, or another incarnation, is fine."""
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if ref.uid is not None:
            options["preconditions"] = {"uid": ref.uid}
        try:
            await self._call("DELETE", path(ref.kind, ref.namespace, ref.name), body=options)
        except ApiError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise

    async def patch_status(self, ref: Ref, status: Manifest, resource_version: str) -> Manifest:
        """Merge into an object's status; ApiError 409 when the object changed since ``resource_version``."""
        return await self._call(
            "PATCH",
            path(ref.kind, ref.namespace, ref.name, "status"),
            body={"metadata": {"resourceVersion": resource_version}, "status": status},
            query={"fieldManager": OPERATOR},
            headers={"Content-Type": "application/merge-patch+json"},
        )

    async def review_token(self, token: str, audience: str) -> Manifest:
        """The status of a TokenReview: authenticated, user, audiences."""
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await self.create({**review, "metadata": {}})
        status: Manifest = answer.get("status") or {}
        return status

    async def _call(
        self,
        verb: str,
        target: str,
        *,
        body: Manifest | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Manifest:
        url = target + (f"?{urlencode(query)}" if query else "")
        for delay in (*RETRY_DELAYS, None):
            status, text = await self._once(verb, url, body, headers or {})
            metrics.api_calls.labels(verb, resource_of(target), str(status)).inc()
            if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
                parsed: Manifest = json.loads(text)
                return parsed
            if delay is None or not retryable(status):
                raise ApiError(status, f"{verb} {target}: {_reason(status, text)}")
            await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    async def _once(self, verb: str, url: str, body: Manifest | None, headers: Mapping[str, str]) -> tuple[int, str]:
        sent = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": OPERATOR, **headers}
        await self._api.update_params_for_auth(sent, [], ["BearerToken"], url, verb, body)
        try:
            response = await self._api.rest_client.request(
                verb, self._api.configuration.host + url, headers=sent, body=body, _request_timeout=TIMEOUT
            )
            return response.status, (await response.read()).decode()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return 0, f"no answer from the API server: {error!r}"


def _reason(status: int, text: str) -> str:
    try:
        message: Any = json.loads(text).get("message", text)
    except ValueError:
        message = text
    return f"{status} {message}"
