"""The vocabulary: every type that crosses a boundary (API server, pod, object storage).

Imports pydantic and nothing of ours; every program imports it. ``python -m finetune_api crds/`` writes the CRDs.
"""

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
