"""The Compose files: what they set exists, what they mount is there, and nobody is cut off when the suite stops."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.images.assemble import components
from gateway.settings import GatewaySettings
from services.kit.process import ProcessSettings
from services.kit.settings import load
from services.language.settings import LanguageSettings
from services.sequence.settings import SequenceSettings
from services.vision.settings import VisionSettings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/compose"
SETTINGS: dict[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "vision": VisionSettings,
    "sequence": SequenceSettings,
    "language": LanguageSettings,
}


def merged(lower: Any, upper: Any) -> Any:
    """Compose's rule for mappings; everything else of `upper` takes its place."""
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return upper
    return {**lower, **{key: merged(lower.get(key), value) for key, value in upper.items()}}


def services(*names: str) -> dict[str, Any]:
    """The services of these files, the later ones laid over the earlier ones."""
    found: dict[str, Any] = {}
    for name in names:
        found = merged(found, yaml.safe_load((FOLDER / name).read_text("utf-8"))["services"])
    return found


BASE, GPU = services("compose.yaml"), services("compose.yaml", "compose.gpu.yaml")
GPU_LANGUAGE = services("compose.yaml", "compose.gpu-language.yaml")
GPU_ALL = services("compose.yaml", "compose.gpu.yaml", "compose.gpu-language.yaml")


def settings_of(component: str, service: Mapping[str, Any]) -> Any:
    """What the component reads of its environment: fails where a name or a value is none of its settings."""
    return load(SETTINGS[component], component, service["environment"])


@pytest.mark.parametrize("suite", [BASE, GPU, GPU_LANGUAGE, GPU_ALL], ids=["cpu", "gpu", "gpu-language", "gpu-all"])
def test_every_component_is_there_and_understands_its_settings(suite: dict[str, Any]) -> None:
    for component in components(ROOT):
        settings = settings_of(component, suite[component])
        assert settings.consul.address == "http://consul:8500"
        assert settings.advertise_address == "auto"
        assert suite[component]["build"]["args"]["COMPONENT"] == component


def test_who_leaves_has_time_to_finish_the_longest_call() -> None:
    for component in components(ROOT):
        settings = settings_of(component, BASE[component])
        grace_s = float(BASE[component]["stop_grace_period"].removesuffix("s"))
        assert settings.limits.unary_timeout_s < settings.drain_s < grace_s


def test_the_gateway_is_stopped_first_and_consul_last() -> None:
    assert set(BASE["gateway"]["depends_on"]) == {"consul", *components(ROOT)} - {"gateway"}
    for component in components(ROOT):
        assert BASE[component]["depends_on"]["consul"] == {"condition": "service_healthy"}


def test_every_container_is_watched_restarted_and_confined() -> None:
    for name, service in BASE.items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["stop_grace_period"], name


def test_every_file_that_is_mounted_is_in_the_checkout() -> None:
    mounted = list(files())
    assert FOLDER.parent / "components/monitoring/dashboard.json" in mounted
    assert [path for path in mounted if not path.is_file()] == []


def files() -> Iterator[Path]:
    """The host's side of every mount of a file."""
    for service in BASE.values():
        for volume in service.get("volumes", ()):
            if volume.startswith("."):
                yield (FOLDER / volume.split(":")[0]).resolve()


def test_healthchecks_ask_the_ports_that_the_images_listen_on() -> None:
    for component in components(ROOT):
        asked = BASE[component]["healthcheck"]["test"][-1]
        assert f"http://127.0.0.1:{port_of(component)}/readyz" in asked


def port_of(component: str) -> int:
    """Where its image listens for HTTP."""
    kind = "gateway" if component == "gateway" else "service"
    port: int = tomllib.loads((ROOT / f"deploy/images/{kind}.toml").read_text("utf-8"))["http_port"]
    return port


def test_services_can_be_scaled() -> None:
    for component in components(ROOT):
        assert "container_name" not in BASE[component]
        assert "ports" not in BASE[component] or component == "gateway"


@pytest.mark.parametrize(
    ("suite", "on_gpus"),
    [(GPU, {"vision", "sequence"}), (GPU_LANGUAGE, {"language"}), (GPU_ALL, {"vision", "sequence", "language"})],
    ids=["gpu", "gpu-language", "gpu-all"],
)
def test_a_gpu_overlay_asks_for_a_gpu_refuses_to_do_without_and_leaves_the_others_alone(
    suite: dict[str, Any], on_gpus: set[str]
) -> None:
    for component in on_gpus:
        service = suite[component]
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        assert service["deploy"]["replicas"] == BASE[component]["deploy"]["replicas"]
        assert service["build"]["args"]["VARIANT"] == "gpu"
        assert service["image"] == f"{BASE[component]['image']}-gpu"
        assert settings_of(component, service).engine.device == "cuda"
    assert {name for name, service in suite.items() if service != BASE.get(name)} == on_gpus


def test_the_tag_is_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    for component in components(ROOT):
        assert re.search(r"TRIVIUM_TAG:-([^}]+)", BASE[component]["image"])[1] == version  # type: ignore[index]


def test_prometheus_asks_every_component_at_its_port_and_gives_the_label_that_dashboard_and_alerts_go_by() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yaml").read_text("utf-8"))["scrape_configs"]
    asked: dict[str, int] = {}
    for job in jobs:
        (target,) = job["dns_sd_configs"]
        asked |= dict.fromkeys(target["names"], target["port"])
        assert {"source_labels": ["__meta_dns_name"], "target_label": "component"} in job["relabel_configs"]
    assert asked == {component: port_of(component) for component in components(ROOT)}
