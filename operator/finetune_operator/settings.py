"""The environment, read once at the start."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How this operator is set up; every field is an environment variable of the chart."""

    trainer_image: str
    """FINETUNE_TRAINER_IMAGE: image of prepare, train and collect pods, and of model servers."""
    operator_image: str
    """FINETUNE_OPERATOR_IMAGE: image of the gateway."""
    report_url: str | None = None
    """FINETUNE_REPORT_URL: where pods report to, http(s)://<service>.<namespace>.svc:8080; without it pods report nothing."""
    report_port: int = 8080
    """FINETUNE_REPORT_PORT."""
    report_tls_dir: Path | None = None
    """FINETUNE_REPORT_TLS_DIR: folder of tls.crt, tls.key and ca.crt."""
    report_ca: str | None = None
    """Contents of its ca.crt, handed to pods in their ConfigMaps."""
    probe_port: int = 8081
    """FINETUNE_PROBE_PORT: /healthz, /readyz, /metrics."""
    watch_namespaces: tuple[str, ...] = ()
    """FINETUNE_WATCH_NAMESPACES, comma separated; empty: all."""
    concurrency: int = 8
    """FINETUNE_CONCURRENCY: keys worked on at a time."""
    resync_seconds: float = 60.0
    """FINETUNE_RESYNC_SECONDS: every key is looked at again after this time."""


def from_environment(env: Mapping[str, str]) -> Settings:
    """Settings from environment variables. Raises ValueError that names the missing or wrong one."""
    missing = [name for name in ("FINETUNE_TRAINER_IMAGE", "FINETUNE_OPERATOR_IMAGE") if not env.get(name)]
    if missing:
        raise ValueError(f"environment variables are not set: {', '.join(missing)}")
    tls_dir = Path(env["FINETUNE_REPORT_TLS_DIR"]) if env.get("FINETUNE_REPORT_TLS_DIR") else None
    return Settings(
        trainer_image=env["FINETUNE_TRAINER_IMAGE"],
        operator_image=env["FINETUNE_OPERATOR_IMAGE"],
        report_url=env.get("FINETUNE_REPORT_URL") or None,
        report_port=int(_number(env, "FINETUNE_REPORT_PORT", 8080)),
        report_tls_dir=tls_dir,
        report_ca=(tls_dir / "ca.crt").read_text() if tls_dir else None,
        probe_port=int(_number(env, "FINETUNE_PROBE_PORT", 8081)),
        watch_namespaces=tuple(n.strip() for n in env.get("FINETUNE_WATCH_NAMESPACES", "").split(",") if n.strip()),
        concurrency=int(_number(env, "FINETUNE_CONCURRENCY", 8)),
        resync_seconds=_number(env, "FINETUNE_RESYNC_SECONDS", 60),
    )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, not {text!r}") from None
    if value <= 0:
        raise ValueError(f"{name} must be above zero, not {text}")
    return value
