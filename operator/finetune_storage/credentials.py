"""Credentials from a Secret mounted as files. Values are never logged, raised or put into this process's environment."""

import time
from pathlib import Path

from finetune_api.pods import SECRET_WAIT_SECONDS
from finetune_api.reasons import Failure, Reason

POLL_SECONDS = 0.5

S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
HUB_KEYS = ("HF_TOKEN",)


def read_secret(folder: Path, required: tuple[str, ...], wait_seconds: float = SECRET_WAIT_SECONDS) -> dict[str, str]:
    """The keys of a mounted Secret.

    The volume is optional, so that a missing Secret is named here and not only as ContainerCreating; the kubelet fills it
    in when the Secret appears.
    """
    deadline = time.monotonic() + wait_seconds
    while missing := [key for key in required if not _value(folder / key)]:
        if time.monotonic() >= deadline:
            raise Failure(
                Reason.SECRET_NOT_FOUND,
                f"Secret {folder.name!r} has no key {' and no key '.join(missing)} (waited {wait_seconds:.0f} s); "
                f"create the Secret in the job's namespace with the keys {', '.join(required)}",
            )
        time.sleep(POLL_SECONDS)
    return {path.name: _value(path) for path in folder.iterdir() if path.is_file()}


def concealed(sentence: str, secret: str) -> str:
    """A service's sentence without the secret it was given: some quote it. Before it is cut, or a part could remain."""
    return sentence.replace(secret, "…") if secret else sentence


def _value(path: Path) -> str:
    """What is no text is some other program's: a keystore, say, or a bundle with names in Latin-1, which is used as a file."""
    return path.read_text(errors="replace").strip() if path.is_file() else ""
