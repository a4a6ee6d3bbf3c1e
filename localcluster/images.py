"""Build images with buildah and push them to the cluster's registry.

A tag is the hash of everything an image is made of, so the registry's answer to "is this tag there?" decides
whether anything is built.
"""

import hashlib
import json
import re
import shutil
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localcluster.build import binary
from localcluster.layout import CACHE, CHECKOUT, DIGESTS, HERE, REGISTRY, RUN, STATE
from localcluster.shell import Failure, run, say, write

RELEASE = "trixie"
DEBIAN_PACKAGES = ("python3", "python3-venv", "ca-certificates", "gcc", "libc6-dev", "libpython3-dev")
"""The last three are the trainer's."""
LEFT_OUT = (
    "./dev/*",
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./var/cache/apt/*",
    "./var/lib/apt/lists/*",
    "./var/log/*",
)


@dataclass(frozen=True)
class Image:
    """An image: its Dockerfile, the files (path in the build context: source) it may copy, the image it stands on."""

    name: str
    dockerfile: Path
    files: dict[str, Path]
    base: str = ""


def infrastructure() -> list[Image]:
    """What the cluster itself needs before its first pod."""
    return [Image(name, HERE / "images" / name / "Dockerfile", {name: binary(name)}) for name in ("pause", "coredns")]


def product() -> list[Image]:
    """The operator's and the trainer's image, and the object store of the quick start."""
    return [
        Image("base", HERE / "images" / "base" / "Dockerfile", {"rootfs.tar": _rootfs()}),
        Image(
            "seaweedfs",
            HERE / "images" / "seaweedfs" / "Dockerfile",
            _from_checkout("requirements/seaweedfs.txt"),
            "base",
        ),
        Image(
            "operator",
            CHECKOUT / "operator" / "Dockerfile",
            _from_checkout(
                "requirements/operator.txt",
                "operator/finetune_api",
                "operator/finetune_storage",
                "operator/finetune_stage",
                "operator/finetune_operator",
                "operator/finetune_gateway",
                "operator/finetune_delegate",
            ),
            "base",
        ),
        Image(
            "trainer",
            CHECKOUT / "trainer_image" / "Dockerfile",
            _from_checkout(
                "requirements/uv.txt",
                "requirements/trainer.txt",
                "operator/finetune_api",
                "operator/finetune_storage",
                "operator/finetune_stage",
                "trainer_image/finetune_trainer",
                "trainer_image/finetune_server",
            ),
            "base",
        ),
    ]


def publish(images: list[Image]) -> dict[str, str]:
    """Build and push what the registry lacks; every image's name with its pinned reference."""
    references: dict[str, str] = {}
    pinned = {}
    for image in images:
        base = references.get(image.base, "")
        with _context(image) as context:
            # Hashed is what was copied: the checkout may be edited meanwhile.
            reference = references[image.name] = f"{REGISTRY}/{image.name}:{_hash(context, base)}"
            digest = _digest(reference)
            if digest is None:
                _build(reference, context, base)
                digest = _digest(reference)
        if digest is None:
            raise Failure(f"{reference} was pushed, but the registry does not have it: see its log")
        pinned[image.name] = f"{REGISTRY}/{image.name}@{digest}"
    return pinned


def publish_product() -> dict[str, str]:
    """The images the chart installs, also written to DIGESTS for Helm values."""
    pinned = publish(product())
    del pinned["base"]
    write(DIGESTS, json.dumps(pinned, indent=2) + "\n")
    return pinned


@contextmanager
def _context(image: Image) -> Iterator[Path]:
    """A folder with the Dockerfile and the files it may copy, and nothing else."""
    with tempfile.TemporaryDirectory(prefix=f"{image.name}-", dir=_made(STATE / "build")) as folder:
        context = Path(folder)
        shutil.copy2(image.dockerfile, context / "Dockerfile")
        for target, source in image.files.items():
            if source.is_dir():
                shutil.copytree(source, context / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                _made((context / target).parent)
                shutil.copy2(source, context / target)
        yield context


def _hash(context: Path, base: str) -> str:
    digest = hashlib.sha256(base.encode())
    for file in sorted(file for file in context.rglob("*") if file.is_file()):
        with file.open("rb") as content:
            digest.update(f"{file.relative_to(context)}\0{hashlib.file_digest(content, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]


def _digest(reference: str) -> str | None:
    """The digest the registry knows the reference by."""
    name, _, tag = reference.removeprefix(f"{REGISTRY}/").partition(":")
    request = urllib.request.Request(
        f"http://{REGISTRY}/v2/{name}/manifests/{tag}",
        method="HEAD",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    # No proxy: the registry listens on this machine's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return str(answer.headers["Docker-Content-Digest"])
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    except urllib.error.URLError as error:
        raise Failure(
            f"the registry at {REGISTRY} does not answer ({error.reason}): run `python3 -m localcluster up`"
        ) from error


def _build(reference: str, context: Path, base: str) -> None:
    say(f"building image {reference}")
    _buildah("rm", "--all")  # what a killed build left
    with _host_settings() as mounts:
        _buildah(
            "bud",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--layers",
            "--tls-verify=false",
            *mounts,
            *(["--build-arg", f"BASE_IMAGE={base}"] if base else []),
            "--tag",
            reference,
            context,
        )
    say(f"pushing image {reference}")
    # The fastest there is: buildah always compresses for a registry, and gzip takes four times as long.
    _buildah("push", "--compression-format", "zstd", "--compression-level", "1", "--tls-verify=false", reference)


def _buildah(command: str, *words: str | Path) -> None:
    run(
        "buildah",
        "--root",
        STATE / "buildah",
        "--runroot",
        RUN / "buildah",
        "--storage-driver",
        "overlay",
        command,
        *words,
    )


@contextmanager
def _host_settings() -> Iterator[list[str]]:
    """Mounts that let pip and uv in a build see the machine's certificates and how it reaches packages, baked into no layer."""
    authorities = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    inside = "/etc/ssl/certs/ca-certificates.crt"
    # Of pip's settings those that say how to reach packages; their values are this machine's and are written nowhere else.
    lines = run(sys.executable, "-m", "pip", "config", "list", check=False).splitlines()
    wanted = r"(?:global|:env:)\.(index-url|extra-index-url|trusted-host|proxy|timeout)='(.*)'"
    settings = {found[1]: found[2] for found in (re.fullmatch(wanted, line) for line in lines) if found}
    pip = {"cert": inside, "disable-pip-version-check": "true", **settings}
    with tempfile.TemporaryDirectory(prefix="settings-", dir=_made(STATE / "build")) as folder:
        Path(folder, "pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in pip.items()))
        Path(folder, "uv.toml").write_text(_uv_settings(settings))
        yield [
            f"--volume={authorities}:{inside}:ro",
            f"--volume={folder}/pip.conf:/etc/pip.conf:ro",
            f"--volume={folder}/uv.toml:/etc/uv/uv.toml:ro",
        ]


def _uv_settings(pip: dict[str, str]) -> str:
    """What uv takes of pip's settings, as TOML."""
    lines = ["system-certs = true"]
    if "trusted-host" in pip:
        lines.append(f"allow-insecure-host = {json.dumps(pip['trusted-host'].split())}")
    lines.append("[pip]")
    if "index-url" in pip:
        lines.append(f"index-url = {json.dumps(pip['index-url'])}")
    if "extra-index-url" in pip:
        lines.append(f"extra-index-url = {json.dumps(pip['extra-index-url'].split())}")
    return "\n".join(lines) + "\n"


def _rootfs() -> Path:
    """Debian with Python as a tar file, made once."""
    recipe = repr((RELEASE, DEBIAN_PACKAGES, LEFT_OUT))
    target = CACHE / f"rootfs-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}" / "rootfs.tar"
    if not target.exists():
        say("installing the base system with debootstrap")
        with tempfile.TemporaryDirectory(prefix="rootfs-", dir=_made(target.parent)) as folder:
            run("debootstrap", "--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}", RELEASE, folder)
            partial = target.with_suffix(".partial")
            run("tar", "-C", folder, *(f"--exclude={path}" for path in LEFT_OUT), "-cf", partial, ".")
        partial.rename(target)
    return target


def _from_checkout(*paths: str) -> dict[str, Path]:
    return {path: CHECKOUT / path for path in paths}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
