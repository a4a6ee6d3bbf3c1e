"""What a delegated job may ask for: a list of small checks; each says, as a sentence, what the provider does not take. Pure."""

from collections.abc import Callable

from finetune_api.model import ApiModel
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.manifests.delegate import delegation

SCHEMES = {"vertex": "vertex://", "openai": "openai://"}
TRAINING = {"vertex": ("epochs", "batchSize", "learningRate", "seed"), "openai": ("epochs", "batchSize", "seed")}
"""Of spec.training, what the provider's API has; vertex: seed is the split's and the gate's."""
ADAPTER = {"vertex": ("type", "rank"), "openai": ()}
ADAPTER_SIZES = (1, 2, 4, 8, 16, 32)
MAX_EPOCHS = 100
METHODS: dict[str, tuple[str, ...]] = {"sft": (), "dpo": ("beta",)}
"""With the settings a provider takes."""
EVERYWHERE = ("suspend", "cancel", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "maxRetries")
FIELDS: dict[str, tuple[str, ...]] = {
    "": (
        "baseModel",
        "dataset",
        "method",
        "adapter",
        "training",
        "evaluation",
        "output",
        "deploy",
        "backend",
        *EVERYWHERE,
    ),
    "dataset": ("train", "validation", "test", "split", "format", "columns", "quality"),
    "dataset.quality": ("deduplicate", "onInvalidRow"),
    "evaluation": ("metrics", "labels", "compareWithBase", "maxNewTokens", "gate"),
    "output": ("uri", "secretRef"),
}
"""What a job at a provider can have; the rest needs the model's weights or its tokenizer. Others have checks of their own."""
METRICS = ("ExactMatch", "Accuracy", "MacroF1")

Check = Callable[[FineTuneJobSpec, str], str | None]


def refusal(spec: FineTuneJobSpec, backend: str) -> str | None:
    """Why this operator cannot delegate the job; None: it can."""
    if delegation(spec) is None:
        return None
    return next((sentence for check in CHECKS if (sentence := check(spec, backend))), None)


def base_refusal(spec: FineTuneJobSpec, backend: str) -> str | None:
    """Whether base model and backend belong together."""
    uri = spec.base_model.uri or ""
    wanted = SCHEMES.get(backend)
    foreign = next((name for name, scheme in SCHEMES.items() if uri.startswith(scheme) and name != backend), None)
    if foreign is not None:
        return f"baseModel.uri {uri} is a provider's model: it needs backend.{foreign}."
    if wanted is not None and not uri.startswith(wanted):
        return f"backend.{backend} tunes the provider's own models: set baseModel.uri to {wanted}<the provider's name of it>."
    base = spec.base_model
    if wanted is not None and (base.revision or base.digest or base.secret_ref):
        return f"baseModel.revision, digest and secretRef do not apply to {wanted} models: leave them out."
    return None


def _fields(spec: FineTuneJobSpec, backend: str) -> str | None:
    stated = spec.wire()
    for path, taken in FIELDS.items():
        part = stated
        for name in filter(None, path.split(".")):
            part = part.get(name) or {}
        foreign = next((name for name, value in part.items() if name not in taken and value is not False), None)
        if foreign is not None:
            field = ".".join(filter(None, (path, foreign)))
            return f"{field} cannot be used with backend.{backend}; {path or 'spec'} takes {', '.join(taken)}."
    return None


def _method(spec: FineTuneJobSpec, backend: str) -> str | None:
    stated = spec.method.wire() if spec.method else {"sft": {}}
    name, settings = next(iter(stated.items()))
    if name not in METHODS:
        return f"method {name} cannot be delegated; supported with backend.{backend} are {' and '.join(METHODS)}."
    foreign = [field for field in settings if field not in METHODS[name]]
    return f"method.{name}.{foreign[0]} is the provider's to decide: leave it out." if foreign else None


def _training(spec: FineTuneJobSpec, backend: str) -> str | None:
    foreign = _foreign(spec.training, TRAINING[backend])
    if foreign:
        return (
            f"training.{foreign[0]} is nothing backend.{backend} takes; it takes {', '.join(TRAINING[backend])}"
            f" and backend.{backend}.learningRateMultiplier."
        )
    epochs = spec.training.epochs if spec.training else None
    if epochs is not None and (epochs != int(epochs) or epochs > MAX_EPOCHS):
        return f"training.epochs is {epochs:g}; a provider takes whole epochs, from 1 to {MAX_EPOCHS}."
    return None


def _adapter(spec: FineTuneJobSpec, backend: str) -> str | None:
    foreign = _foreign(spec.adapter, ADAPTER[backend])
    if foreign:
        takes = " and ".join(ADAPTER[backend])
        return f"adapter.{foreign[0]} is nothing backend.{backend} takes; {f'it takes {takes}' if takes else 'leave adapter out'}."
    if spec.adapter is None:
        return None
    if spec.adapter.type not in ("LoRA", "Full"):
        return f"adapter {spec.adapter.type} is nothing Vertex AI has; it has LoRA, and Full for open models."
    if spec.adapter.rank is not None and spec.adapter.rank not in ADAPTER_SIZES:
        return f"adapter.rank is {spec.adapter.rank}; Vertex AI has the adapter sizes {', '.join(map(str, ADAPTER_SIZES))}."
    return None


def _learning_rate(spec: FineTuneJobSpec, backend: str) -> str | None:
    vertex = spec.backend.vertex if spec.backend else None
    if vertex and vertex.learning_rate_multiplier and spec.training and spec.training.learning_rate:
        return "training.learningRate (open models) and backend.vertex.learningRateMultiplier (Google's own): set one of them."
    return None


def _own_labels(spec: FineTuneJobSpec, backend: str) -> str | None:
    vertex, openai = (spec.backend.vertex, spec.backend.openai) if spec.backend else (None, None)
    given = (vertex and vertex.labels) or (openai and openai.metadata) or {}
    taken = sorted(key for key in given if key.startswith("finetune-"))
    return f"{taken[0]} in backend.{backend}: names that begin with finetune- are the operator's." if taken else None


def _likelihoods(spec: FineTuneJobSpec, backend: str) -> str | None:
    evaluation = spec.evaluation
    if evaluation is None:
        return None
    wrong = [m for m in evaluation.metrics or [] if m not in METRICS]
    if wrong:
        return f"evaluation.metrics has {wrong[0]}; a provider need not return likelihoods, so a delegated job has {', '.join(METRICS)}."
    gated = [rule.metric for rule in evaluation.gate or [] if rule.metric not in METRICS]
    if gated:
        return (
            f"evaluation.gate on {gated[0]} cannot be decided for a delegated job, as a provider need not return likelihoods; "
            f"gate on one of {', '.join(METRICS)}."
        )
    return None


CHECKS: list[Check] = [_fields, _method, _training, _adapter, _learning_rate, _own_labels, _likelihoods]


def _foreign(stated: ApiModel | None, taken: tuple[str, ...]) -> list[str]:
    return [name for name in stated.wire() if name not in taken] if stated else []
