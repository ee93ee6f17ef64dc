"""Engine: what builds images here and runs them: docker or podman; else buildah, which needs no service but root."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = "deploy/images/Dockerfile"
CONTAIN = Path(__file__).with_name("contain.py")
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PULL_S, BUILD_S = 90, 1800
MISSING = """there is nothing here that builds images: neither docker nor podman answers `info`, and buildah {reason}.
Debian and Ubuntu: apt-get install --no-install-recommends buildah mmdebstrap   (and run this as root)"""


class NoEngine(Exception):
    """Says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Container:
    """How a container is started: in the foreground, on the host's network, read-only, as the image's own user."""

    command: tuple[str, ...]
    environment: Mapping[str, str]  # of the command


class Engine(Protocol):
    """Builds and runs images."""

    name: str

    def has(self, image: str) -> bool:
        """Whether the image is here."""

    def pull(self, image: str) -> bool:
        """Fetches an image; False if it cannot be had."""

    def import_root(self, archive: Path, image: str) -> None:
        """Makes an image of a tar file of a root folder."""

    def build(self, image: str, arguments: Mapping[str, str]) -> None:
        """Builds the checkout's Dockerfile with these build arguments."""

    def size(self, image: str) -> int:
        """Bytes of all its files."""

    def container(
        self,
        image: str,
        name: str,
        environment: Mapping[str, str],
        volumes: Mapping[Path, str],
        program: Sequence[str] = (),
    ) -> Container:
        """How to run the image, or another program in it."""

    def remove(self, name: str) -> None:
        """Ends the container of that name, if it is still there."""

    def close(self) -> None:
        """Gives back what it holds; images stay."""


def find_engine() -> Engine:
    """The first that works here.

    Raises:
        NoEngine: none does.
    """
    for name in ("docker", "podman"):
        if shutil.which(name) and _run([name, "info"], timeout_s=30).returncode == 0:
            return Docker(name)
    if not shutil.which("buildah"):
        raise NoEngine(MISSING.format(reason="is not installed"))
    if os.geteuid() != 0:
        raise NoEngine(MISSING.format(reason="needs root to run what it has built"))
    return Buildah()


class Docker:
    """docker, or podman, which takes the same words."""

    def __init__(self, name: str) -> None:
        self.name = name

    def has(self, image: str) -> bool:
        """Whether the image is here."""
        return _run([self.name, "image", "inspect", image]).returncode == 0

    def pull(self, image: str) -> bool:
        """Fetches an image; False if it cannot be had."""
        return _run([self.name, "pull", "--quiet", image], timeout_s=PULL_S).returncode == 0

    def import_root(self, archive: Path, image: str) -> None:
        """Makes an image of a tar file of a root folder."""
        _check([self.name, "import", str(archive), image])

    def build(self, image: str, arguments: Mapping[str, str]) -> None:
        """Builds the checkout's Dockerfile with these build arguments."""
        _check([self.name, "build", "-f", DOCKERFILE, *_build_arguments(arguments), "-t", image, "."])

    def size(self, image: str) -> int:
        """Bytes of all its layers."""
        return int(_check([self.name, "image", "inspect", "--format", "{{.Size}}", image]))

    def container(
        self,
        image: str,
        name: str,
        environment: Mapping[str, str],
        volumes: Mapping[Path, str],
        program: Sequence[str] = (),
    ) -> Container:
        """How to run the image, or another program in it."""
        hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host"]
        if self.name == "podman":  # which else mounts folders that can be written over /tmp and its like
            hardened.append("--read-only-tmpfs=false")
        settings = [f"--env={key}={value}" for key, value in environment.items()]
        mounts = [f"--volume={source}:{target}:ro" for source, target in volumes.items()]
        entry = [f"--entrypoint={program[0]}"] if program else []
        command = [self._path(), "run", "--rm", f"--name={name}", *hardened, *settings, *mounts, *entry, image]
        return Container((*command, *program[1:]), os.environ)

    def remove(self, name: str) -> None:
        """Ends the container of that name, if it is still there."""
        _run([self.name, "rm", "--force", name])

    def close(self) -> None:
        """Holds nothing."""

    def _path(self) -> str:
        return shutil.which(self.name) or self.name


@dataclass
class Buildah:
    """buildah with chroot isolation, and contain.py in the place of a container engine."""

    name: str = "buildah"
    _mounted: dict[str, tuple[str, str]] = field(default_factory=dict)  # image -> working container, its root

    def has(self, image: str) -> bool:
        """Whether the image is here."""
        return _run(["buildah", "inspect", "--type", "image", image]).returncode == 0

    def pull(self, image: str) -> bool:
        """Fetches an image; False if it cannot be had."""
        return _run(["buildah", "pull", "--quiet", image], timeout_s=PULL_S).returncode == 0

    def import_root(self, archive: Path, image: str) -> None:
        """Makes an image of a tar file of a root folder."""
        container = _check(["buildah", "from", "scratch"])
        _check(["buildah", "add", "--quiet", container, str(archive), "/"])
        _check(["buildah", "commit", "--quiet", "--rm", container, image])

    def build(self, image: str, arguments: Mapping[str, str]) -> None:
        """Builds the checkout's Dockerfile with these build arguments."""
        own = os.environ.get("SSL_CERT_FILE")  # a proxy here may sign with certificates that only this machine knows
        trust = [f"--volume={own}:{CA_BUNDLE}:ro"] if own else []
        options = ["--isolation=chroot", "--layers", "--force-rm", "--pull-never", *trust]
        _check(["buildah", "bud", *options, "-f", DOCKERFILE, *_build_arguments(arguments), "-t", image, "."])

    def size(self, image: str) -> int:
        """Bytes of all its files."""
        return int(_check(["du", "--summarize", "--bytes", self._root(image)]).split()[0])

    def container(
        self,
        image: str,
        name: str,
        environment: Mapping[str, str],
        volumes: Mapping[Path, str],
        program: Sequence[str] = (),
    ) -> Container:
        """How to run the image, or another program in it."""
        config = self._config(image)
        own = dict(variable.split("=", 1) for variable in config["Env"])
        mounts = [f"{source}:{target}" for source, target in volumes.items()]
        command = [sys.executable, "-I", "-S", str(CONTAIN), self._root(image), config["User"], *mounts, "--"]
        return Container((*command, *(program or config["Entrypoint"])), {**own, **environment})

    def remove(self, name: str) -> None:
        """What contain.py started has ended with it."""

    def close(self) -> None:
        """Unmounts the images."""
        for container, _ in self._mounted.values():
            _run(["buildah", "rm", container])
        self._mounted.clear()

    def _root(self, image: str) -> str:
        if image not in self._mounted:
            container = _check(["buildah", "from", "--pull-never", image])
            self._mounted[image] = container, _check(["buildah", "mount", container])
        return self._mounted[image][1]

    def _config(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_check(["buildah", "inspect", "--type", "image", image]))
        config: dict[str, Any] = found["OCIv1"]["config"]
        return config


def _build_arguments(arguments: Mapping[str, str]) -> list[str]:
    return [f"--build-arg={key}={value}" for key, value in arguments.items()]


def _run(command: Sequence[str], timeout_s: float = 300) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"did not end within {timeout_s:g} s")


def _check(command: Sequence[str]) -> str:
    """What it printed.

    Raises:
        AssertionError: it failed; with its last lines.
    """
    done = _run(command, timeout_s=BUILD_S)
    lines = "\n".join(f"{done.stdout}\n{done.stderr}".splitlines()[-30:])
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{lines}"
    return done.stdout.strip()
