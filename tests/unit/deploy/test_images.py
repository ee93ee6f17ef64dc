"""What an image is assembled of, and what its lock files hold."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from deploy.images import assemble
from gateway.settings import GatewaySettings
from services.kit.settings import load
from services.vision.settings import VisionSettings

ROOT = Path(__file__).resolve().parents[3]
COMPONENTS = ("gateway", "language", "sequence", "vision")
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def pins(lock: str) -> dict[str, str]:
    """Versions by name."""
    return dict(PIN.findall((ROOT / "requirements" / lock).read_text("utf-8")))


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """What a virtual environment is, as far as it is filled here."""
    (tmp_path / "lib/python3.11/site-packages").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    return tmp_path


def test_every_component_has_a_lock_of_its_image() -> None:
    locks = sorted(path.stem for path in (ROOT / "requirements/images").glob("*.lock"))
    assert locks == sorted(assemble.components(ROOT)) == list(COMPONENTS)


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_image_has_the_versions_that_a_checkout_has(component: str) -> None:
    own, run = pins(f"images/{component}.lock"), pins("run.lock")
    assert {name: version for name, version in own.items() if run.get(name) != version} == {}


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_library_of_an_image_is_pinned_by_hash(component: str) -> None:
    text = (ROOT / f"requirements/images/{component}.lock").read_text("utf-8")
    requirements = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert all(line.endswith("\\") for line in requirements)
    assert text.count("--hash=sha256:") >= len(requirements)


def test_the_gateways_image_has_no_numpy_and_no_onnxruntime_and_no_image_has_torch() -> None:
    assert not {"numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "tokenizers"} & set(pins("images/gateway.lock"))
    for component in COMPONENTS:
        assert not {"torch", "onnxruntime-gpu", "hatchling", "pytest"} & set(pins(f"images/{component}.lock"))


@pytest.mark.parametrize("component", COMPONENTS)
def test_what_is_assembled_starts_by_itself(component: str, environment: Path) -> None:
    """Up to its settings, which are wrong: hence every import of the process was found in the environment."""
    assemble.main(component, environment)
    prefix = f"TRIVIUM_{component.upper()}__"
    done = subprocess.run(
        [sys.executable, "-I", "-c", _ISOLATED.format(root=ROOT, site=site_of(environment)), environment / "bin/serve"],
        env={f"{prefix}HOSTT": "x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert f"did you mean {prefix}HOST?" in done.stderr


# This checkout's own environment without the checkout: the libraries, and what was assembled.
_ISOLATED = """
import runpy, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = ["{site}", *(path for path in sys.path if path not in ("{root}", "{root}/protos/python"))]
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def site_of(environment: Path) -> Path:
    """Where its packages lie."""
    return environment / "lib/python3.11/site-packages"


def test_a_service_comes_with_its_bundles_and_without_others_training_and_the_sdk(environment: Path) -> None:
    assemble.main("vision", environment)
    site = site_of(environment)
    assert sorted(path.name for path in (site / "services").iterdir() if path.is_dir() and path.name[0] != "_") == [
        "kit",
        "vision",
    ]
    assert (site / "services/vision/bundles/digits-cnn/1/model.onnx").exists()
    assert (site / "trivium/descriptors.binpb").exists()
    left_out = [*site.rglob("training"), *site.rglob("client"), *site.rglob("samples"), *site.rglob("*_pb2_grpc.py")]
    assert left_out == []
    assert not (site / "gateway").exists()
    found = next(iter(metadata.distributions(name="trivium-suite", path=[str(site)])))
    assert found.version == tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def test_the_gateway_comes_without_the_engine(environment: Path) -> None:
    assemble.main("gateway", environment)
    site = site_of(environment)
    assert (site / "gateway/__main__.py").exists()
    assert not (site / "services/kit/inference").exists()
    assert [path.name for path in (site / "services").iterdir() if path.is_dir() and path.name[0] != "_"] == ["kit"]


def test_a_component_that_does_not_exist_is_refused_with_those_that_do(environment: Path) -> None:
    with pytest.raises(SystemExit, match=r"'kit'(.|\n)*gateway, language, sequence, vision"):
        assemble.main("kit", environment)


def test_containers_listen_on_every_address_at_the_ports_that_are_documented() -> None:
    gateway = load(GatewaySettings, "gateway", {"TRIVIUM_GATEWAY__CONFIG": str(ROOT / "deploy/images/gateway.toml")})
    assert (gateway.host, gateway.grpc_port, gateway.health_port, gateway.http_port) == ("0.0.0.0", 8001, 8002, 8000)
    service = load(VisionSettings, "vision", {"TRIVIUM_VISION__CONFIG": str(ROOT / "deploy/images/service.toml")})
    assert (service.host, service.grpc_port, service.health_port, service.http_port) == ("0.0.0.0", 50051, 50052, 9090)
    assert service.bundles_dir == (Path("/bundles"),)
