"""What the plan makes of the GPU's memory: rows of a pass, recomputation, fused kernels; and of a job that cannot fit."""

from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import PlanStatus, ResolvedBaseModel
from finetune_trainer.base_model import BaseFacts
from finetune_trainer.memory import LINEARS, Shape
from finetune_trainer.plan import Choices, Plan, decide
from finetune_trainer.sizing import Situation
from plan_builders import a_spec, lengths


class TestMemory:
    """By the stated GPU; the prediction itself is tested in test_memory.py."""

    EIGHT = Shape(4096, 14336, 32, 32, 8, 128, 128256, False)

    def planned(
        self,
        backend: dict[str, Any] | None,
        adapter: dict[str, Any] | None = None,
        shape: Shape | None = EIGHT,
        **training: Any,
    ) -> tuple[Plan, Choices]:
        choices = Choices()
        base = BaseFacts(ResolvedBaseModel(), 8192, is_large=True, random=False, shape=shape)
        members = {"adapter": adapter} if adapter else {}
        spec = a_spec(backend={"kubernetes": backend}, training={"maxLength": 4096, **training}, **members)
        rows = {"train": lengths(*[3000] * 100)}
        return decide(Situation(spec, base, rows), choices), choices

    def test_without_a_stated_gpu_by_rule_of_thumb(self) -> None:
        found, _ = self.planned({"gpus": 1})
        assert found.forecast.memory is None
        assert found.training.gradient_checkpointing

    def test_a_stated_gpu_decides_batch_and_recomputation(self) -> None:
        found, choices = self.planned({"gpus": 1, "gpuModel": "H200"})
        assert (found.training.micro_batch_size, found.training.gradient_checkpointing) == (2, False)
        assert found.forecast.memory is not None
        assert found.forecast.memory.gpu == "H200"
        assert found.forecast.packing_efficiency == pytest.approx(3000 / 4096)
        assert found.forecast.estimated_seconds
        why = next(choice.reason for choice in choices.made if choice.field == "training.gradientCheckpointing")
        assert "GiB of H200" in why

    @pytest.mark.parametrize(
        ("backend", "adapter", "shape", "why_not"),
        [
            pytest.param({"gpus": 1}, "LoRA", EIGHT, None, id="a GPU"),
            pytest.param({"gpus": 2}, "LoRA", EIGHT, None, id="an adapter on two"),
            pytest.param({"gpus": 1}, "Full", EIGHT, None, id="a whole model on one"),
            pytest.param({"gpus": 2}, "Full", EIGHT, "spread over GPUs", id="a whole model on two"),
            pytest.param({}, "LoRA", EIGHT, "backend.kubernetes.gpus is 0", id="no GPU"),
            pytest.param({"gpus": 1}, "LoRA", None, "llama, mistral, qwen2, qwen3", id="another architecture"),
        ],
    )
    def test_kernels_are_fused_where_that_was_tried(
        self, backend: dict[str, Any], adapter: Any, shape: Shape | None, why_not: str | None
    ) -> None:
        found, choices = self.planned(backend, {"type": adapter}, shape)
        reason = next(choice.reason for choice in choices.made if choice.field == "training.fusedKernels")
        assert found.training.fused_kernels is (why_not is None)
        assert (why_not or "less time and memory") in reason
        assert not self.planned(backend, {"type": adapter}, shape, fusedKernels=False)[0].training.fused_kernels
        if why_not is None:
            assert self.planned(backend, {"type": adapter}, shape, fusedKernels=True)[0].training.fused_kernels
        else:
            with pytest.raises(Failure, match=f"training.fusedKernels is true: .*{why_not}.*; leave it out"):
                self.planned(backend, {"type": adapter}, shape, fusedKernels=True)

    def test_fused_kernels_leave_room_for_more(self) -> None:
        gpu = {"gpus": 1, "gpuModel": "L40S"}
        fused, plain = (self.planned(gpu, fusedKernels=each)[0].forecast for each in (True, False))
        assert fused.memory is not None
        assert plain.memory is not None
        assert (fused.largest_micro_batch_size or 0) > (plain.largest_micro_batch_size or 0)

    def test_a_job_that_cannot_fit_is_refused_before_it_takes_a_gpu(self) -> None:
        with pytest.raises(Failure, match=r"training needs at least .* GiB on the GPU") as caught:
            self.planned({"gpus": 1, "gpuMemory": "16000000000000m"})
        assert caught.value.reason is Reason.DOES_NOT_FIT

    @pytest.mark.parametrize(
        ("backend", "adapter"),
        [
            pytest.param({"gpuModel": "T4"}, {}, id="a GPU without bfloat16 trains in float32"),
            pytest.param({"gpuMemory": "15Gi"}, {"targetModules": ["q_proj"]}, id="some linear layers"),
            pytest.param({"gpuMemory": "15Gi"}, {"layers": [0]}, id="some layers"),
            pytest.param({"gpuMemory": "15Gi"}, {"rankPattern": {"q_proj": 64}}, id="several ranks"),
        ],
    )
    def test_what_was_not_measured_is_not_refused(self, backend: dict[str, Any], adapter: dict[str, Any]) -> None:
        found, _ = self.planned({"gpus": 1, **backend}, {"type": "LoRA", **adapter})
        assert found.forecast.memory is None

    def test_all_linear_layers_by_name_are_all_of_them(self) -> None:
        named = {"type": "LoRA", "targetModules": sorted(LINEARS)}
        assert self.planned({"gpus": 1, "gpuModel": "H200"}, named)[0].forecast.memory is not None

    def test_the_status_holds_it(self) -> None:
        found, choices = self.planned({"gpus": 1, "gpuModel": "H200"})
        status = PlanStatus(choices=choices.made, steps=1, **found.forecast._asdict())
        assert status.wire()["memory"]["reservedBytes"] == found.forecast.memory.reserved_bytes
