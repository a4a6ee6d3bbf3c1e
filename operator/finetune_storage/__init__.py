"""Files in object storage: addresses to bytes, folders with sha256 manifests, base models from S3 or a hub.

A small leaf under the trainer and the gateway, so that both read and write the layout of :mod:`finetune_api.artifacts` with
one client and one way of naming what went wrong. Every end is a :class:`finetune_api.reasons.Failure` whose message names
the address and never a credential; an unreachable store is waited for, anything else fails at once.
"""

from finetune_storage.datasets import FetchedFile, fetch_rows, is_pattern, matching
from finetune_storage.folders import commit_folder, digest_of, document, fetch_folder
from finetune_storage.models import fetch_model, is_model_file, pin_model
from finetune_storage.store import Store, open_store, sha256_of

__all__ = [
    "FetchedFile",
    "Store",
    "commit_folder",
    "digest_of",
    "document",
    "fetch_folder",
    "fetch_model",
    "fetch_rows",
    "is_model_file",
    "is_pattern",
    "matching",
    "open_store",
    "pin_model",
    "sha256_of",
]
