"""The gateway: a sidecar beside a model server. Fetches and hot-loads adapters, routes requests, reports what is loaded.

    config (pool.json, report replies) -> pool -> adapter (one task each) -> artifact (storage), server (model server), routes
    clients -> proxy -> routes -> model server on loopback

Knows no Kubernetes. Imports :mod:`finetune_api` and :mod:`finetune_storage`.
"""
