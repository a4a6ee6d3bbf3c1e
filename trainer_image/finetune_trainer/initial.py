"""An adapter of an earlier job to go on from: checked before anything runs, and loaded onto the base instead of a fresh one.

Its rank, scale and layers stand fixed in its weights: the job takes them from it, and may only repeat them.
"""

import json
from typing import Any

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.adapter import AdapterSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_stage.outcome import Places
from finetune_storage import fetch_folder
from finetune_trainer.inputs import Inputs
from finetune_trainer.plan_adapter import Inherited
from finetune_trainer.previous import CONFIG, pinned, store_of
from finetune_trainer.world import World

FIELD = "adapter.initial"
SAME_WEIGHTS = {"QLoRA": "LoRA", "LoraPlus": "LoRA", "QDoRA": "DoRA"}
"""Types that differ in how the base is kept or how fast they learn, not in what they store."""


def adopted(stated: AdapterSpec, base: ResolvedBaseModel, places: Places) -> tuple[AdapterSpec, Inherited]:
    """The settings with the initial adapter pinned by its digest, and what it brings. Raises Failure where they contradict."""
    assert stated.initial is not None
    found = pinned(stated.initial, base, places, FIELD)
    folder = places.work_dir / "initial"
    fetch_folder(store_of(found, places), "", folder, found.digest, wanted=lambda name: name == CONFIG)
    config = json.loads((folder / CONFIG).read_bytes())
    kind, wanted = type_of(config), SAME_WEIGHTS.get(stated.type, stated.type)
    if kind != wanted:
        raise _contradiction(
            "type", stated.type, kind, f"name an adapter of type {wanted}, or set adapter.type: {kind}"
        )
    if config["task_type"] != "CAUSAL_LM":
        raise _contradiction(
            "method", "one that writes text", f"task {config['task_type']}", "name an adapter that writes text"
        )
    inherited = _inherited(config)
    for name, mine in (("rank", stated.rank), ("alpha", stated.alpha)):
        its = getattr(inherited, name)
        if mine not in (None, its):
            raise _contradiction(name, mine, its, "leave it out")
    if stated.target_modules is not None and sorted(stated.target_modules) != list(inherited.target_modules):
        raise _contradiction("targetModules", stated.target_modules, list(inherited.target_modules), "leave it out")
    return stated.model_copy(update={"initial": found}), inherited


def type_of(config: dict[str, Any]) -> str:
    """Type of an adapter by PEFT's description of it."""
    if config["peft_type"] != "LORA":
        return str(config["peft_type"])
    return "DoRA" if config.get("use_dora") else "RsLoRA" if config.get("use_rslora") else "LoRA"


def continued(model: Any, inputs: Inputs, world: World) -> Any:
    """The base with the initial adapter on it, which learns on."""
    from peft import PeftConfig, PeftModel

    adapter = inputs.resolved.adapter
    assert adapter.initial is not None
    print(f"going on from the adapter {adapter.initial.uri}", flush=True)
    folder = world.shared(inputs.work) / "initial"
    if world.leads_its_node:
        fetch_folder(store_of(adapter.initial, inputs.places), "", folder, adapter.initial.digest)
    world.wait()
    config = PeftConfig.from_pretrained(str(folder))
    config.lora_dropout = adapter.dropout  # of this training; nothing of it is stored in the weights
    return PeftModel.from_pretrained(model, str(folder), config=config, is_trainable=True)


def _inherited(config: dict[str, Any]) -> Inherited:
    targets = config["target_modules"]
    return Inherited(
        rank=config["r"],
        alpha=config["lora_alpha"],
        target_modules=tuple(sorted([targets] if isinstance(targets, str) else targets)),
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
        layers=tuple(config.get("layers_to_transform") or ()),
        experts=bool(config.get("target_parameters")),
    )


def _contradiction(name: str, mine: object, its: object, remedy: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, f"adapter.{name} is {mine}, and {FIELD} has {its}: {remedy}")
