"""deploy/images/README.md: its loops make the images that overlays name; its words are those of engine.py."""

import re
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from services.kit import settings
from services.kit.errors import StartupError
from services.kit.process import AUTO, ProcessSettings
from services.language.engine.cuda import Cuda
from tests.deploy.lint.environment import settings_class
from tests.deploy.manifests import DEPLOY, ROOT, build, combine, containers_of, of_kind
from tests.deploy.test_compose import port_of
from tests.image_test import base_image, engine

TEXT = (DEPLOY / "images/README.md").read_text("utf-8")
LINES = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ").splitlines()


def commands(program: str) -> list[list[str]]:
    """The commands of a program, a loop's once for each component."""
    found, components = [], [""]
    for line in LINES:
        words = shlex.split(line, comments=True)
        if words[:1] == ["for"]:
            components = line.partition(" in ")[2].partition(";")[0].split()
        elif words[:1] == ["done"]:
            components = [""]
        elif words[:1] == [program]:
            found += [[word.replace("$component", name) for word in words] for name in components]
    return found


def builds() -> list[list[str]]:
    """The commands of docker that build."""
    return [words for words in commands("docker") if words[1] == "build"]


def made(by: Sequence[Sequence[str]]) -> set[str]:
    """The images that these commands make."""
    return {words[words.index("-t") + 1] for words in by}


def images(folder: Path) -> set[str]:
    """The images of our own in a kustomization."""
    workloads = of_kind(build(folder), "Deployment")
    return {each["image"] for found in workloads for each in containers_of(found) if each["name"] == "server"}


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "dev"])
def test_every_image_of_an_overlay_is_one_that_the_readme_makes(overlay: str) -> None:
    assert images(DEPLOY / "overlays" / overlay) <= made(builds())


def test_the_readme_makes_the_images_of_all_overlays_and_components_and_no_others(tmp_path: Path) -> None:
    folder = combine(tmp_path, ["consul-sidecar", "gpu", "gpu-language"])
    assert images(folder) | images(DEPLOY / "overlays/cpu") == made(builds())
    for words in builds():
        (component,) = [word.removeprefix("COMPONENT=") for word in words if word.startswith("COMPONENT=")]
        variant = "-gpu" if "VARIANT=gpu" in words else ""
        assert re.fullmatch(rf"trivium-{component}:[\d.]+{variant}", words[words.index("-t") + 1])


@pytest.mark.parametrize("service", ["vision", "sequence", "language"])
def test_an_image_for_gpus_has_every_library_of_the_other_one_and_those_of_cuda(service: str) -> None:
    own, gpu = pins(f"images/{service}.lock"), pins("gpu.lock")
    own["onnxruntime-gpu"] = own.pop("onnxruntime")
    assert {name: version for name, version in own.items() if gpu.get(name) != version} == {}
    assert {"cuda-bindings", "nvidia-cuda-runtime", "nvidia-cudnn-cu13"} <= set(gpu)


def pins(lock: str) -> dict[str, str]:
    """Versions by name."""
    text = (ROOT / "requirements" / lock).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def test_buildah_makes_the_same_images_with_the_options_of_image_test(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [words for words in commands("buildah") if words[1] == "bud"]
    assert made(ours) == {image for image in made(builds()) if not image.endswith("-gpu")}
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    (tried,) = asked(monkeypatch, lambda: engine.Buildah().build("image", {}))
    options = {word for word in tried if word.startswith("-")} - {"--layers", "--force-rm"}
    assert "--isolation=chroot" in options
    assert [words for words in ours if not options <= set(words)] == []
    assert f"--volume=$SSL_CERT_FILE:{engine.CA_BUNDLE}:ro" in TEXT


def test_the_base_without_a_registry_is_made_as_image_test_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (packages,) = commands("mmdebstrap")
    assert f"--include={base_image.PACKAGES}" in packages
    add, commit = [words for words in commands("buildah") if words[1] in ("add", "commit")]
    _, *steps = asked(monkeypatch, lambda: engine.Buildah().import_root(Path(packages[-1]), commit[-1]))
    assert [[word for word in step if word != "--quiet"] for step in steps] == [add, commit]
    assert all(f"BASE_IMAGE={commit[-1]}" in words for words in commands("buildah") if words[1] == "bud")


def asked(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[list[str]]:
    """The commands that an engine would run."""
    seen: list[list[str]] = []

    def check(command: Sequence[str]) -> str:
        seen.append(list(command))
        return "$base"

    monkeypatch.setattr(engine, "_check", check)
    act()
    return seen


def test_the_container_of_the_readme_has_the_settings_and_ports_of_its_image() -> None:
    (words,) = [words for words in commands("docker") if words[1] == "run"]
    options = list(pairwise(words))
    environment = dict(value.split("=", 1) for option, value in options if option == "-e")
    process: ProcessSettings = settings.load(settings_class("vision"), "vision", environment)
    assert process.advertise_address not in ("", AUTO)
    ports = {int(value.partition(":")[2]) for option, value in options if option == "-p"}
    assert ports == {50051, port_of("vision")}
    assert [value for option, value in options if option == "-v" and ":/bundles" in value]
    assert words[-1] in made(builds())


def test_texts_on_the_gpu_without_cudas_bindings_are_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(StartupError) as caught:
        Cuda.open(0)
    assert f"| `{str(caught.value).partition(': ')[0]}: ...` |" in TEXT


def test_a_name_that_stands_for_no_address_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "...")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "")
    with pytest.raises(StartupError) as caught:
        ProcessSettings(host="0.0.0.0", advertise_address=AUTO).advertised_host()
    assert f"| `{caught.value}` |" in TEXT
