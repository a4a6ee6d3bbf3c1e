"""The gateway: a sidecar beside a model server. Fetches and hot-loads adapters, routes requests, reports what is loaded.

    config (pool.json, report replies) -> pool -> adapter (one task each) -> artifact (storage), server (model server), routes
    clients -> proxy -> routes (split) -> upstream: the model server on loopback, or another pool's gateways

Knows no Kubernetes. Imports :mod:`finetune_api` and :mod:`finetune_storage`.
"""
