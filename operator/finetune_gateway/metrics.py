"""What the gateway counts, for /metrics."""

from aiohttp.web import RequestKey
from prometheus_client import Counter, Gauge, Histogram

MODEL = RequestKey("model", str)
"""Public model name a request is counted under."""
SHARE = RequestKey("share", str)
"""Share of a split that answers a request."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

REQUESTS = Counter("finetune_gateway_requests", "Requests for a model.", ["model", "code"])
REQUEST_SECONDS = Histogram("finetune_gateway_request_seconds", "Until the last byte.", ["model"], buckets=SECONDS)
SHARES = Counter("finetune_gateway_split_requests", "Requests sent to a share of a split.", ["model", "adapter"])
LOADS = Counter("finetune_gateway_adapter_loads", "Ended attempts to load an adapter.", ["result"])
LOAD_SECONDS = Histogram(
    "finetune_gateway_adapter_load_seconds", "From knowing of an adapter to its first answer.", buckets=SECONDS
)
LOADED = Gauge("finetune_gateway_adapters", "Adapters that answer under their public name.")
READY = Gauge("finetune_gateway_ready", "1 while the base answers and every desired adapter was tried.")
