"""Who a program is at Google: a key from a mounted Secret, or what the environment gives the pod (workload identity)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.auth
from google.auth import exceptions, identity_pool
from google.oauth2 import credentials as user
from google.oauth2 import service_account

from finetune_api.pods import SECRET_WAIT_SECONDS
from finetune_api.reasons import Failure, Reason
from finetune_storage.credentials import read_secret

KEY = "credentials.json"
"""Key of the Secret: a service account's key, a user's, or a workload identity federation's configuration."""
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
KINDS: dict[str, Callable[..., Any]] = {
    "service_account": service_account.Credentials.from_service_account_info,
    "external_account": identity_pool.Credentials.from_info,
    "authorized_user": user.Credentials.from_authorized_user_info,
}
"""Named one by one: Google's loader for any kind also takes those that run a program."""


def google_identity(folder: Path | None, field: str, secret_wait: float = SECRET_WAIT_SECONDS) -> Any:
    """Credentials of a mounted Secret alone, or of the environment alone. ``field`` is where the spec would name a Secret."""
    if folder is None:
        try:
            return google.auth.default(scopes=SCOPES)[0]
        except exceptions.DefaultCredentialsError:
            raise Failure(
                Reason.ACCESS_DENIED,
                f"no Google credentials: name a Secret with {KEY} in {field}, "
                "or run with a service account that has a workload identity",
            ) from None
    read_secret(folder, (KEY,), secret_wait)
    try:
        return of_file(folder / KEY)
    except (exceptions.GoogleAuthError, ValueError) as error:
        raise Failure(Reason.ACCESS_DENIED, f"Secret {folder.name!r}, key {KEY}: {error}") from None


def of_file(file: Path) -> Any:
    """Credentials of the kind the file says it is. Raises ValueError or GoogleAuthError."""
    info = json.loads(file.read_bytes())
    kind = info.get("type") if isinstance(info, dict) else None
    if kind not in KINDS:
        raise ValueError(f"it has the type {kind!r}; it must be one of {', '.join(KINDS)}")
    return KINDS[kind](info, scopes=SCOPES)
