"""What an image holds, whom it runs as, and what it may write."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.image_test.conftest import COMPONENTS
from tests.image_test.engine import Engine

SERVICES = COMPONENTS[1:]
OWN = {"vision": ["PIL"], "language": ["tokenizers"]}  # modules that no other service has
OWN_ON_A_GPU = {**OWN, "language": ["tokenizers", "cuda.bindings.runtime"]}
PYTHON = "/opt/trivium/bin/python"
LOOK = """
import importlib.util, json, os, pathlib, shutil, sys

def can_write(folder):
    try:
        path = pathlib.Path(folder, "probe")
        path.write_text("")
        path.unlink()
        return True
    except OSError:
        return False

site = next(path for path in map(pathlib.Path, sys.path) if path.name == "site-packages")
names = ["numpy", "onnxruntime", "PIL", "tokenizers", "torch", "pip", "trivium.client"]
print(json.dumps({
    "user": [os.getuid(), os.getgid(), os.geteuid(), os.getgroups()],
    "capabilities": [line for line in open("/proc/self/status") if line.startswith(("CapEff", "CapPrm", "NoNewPrivs"))],
    "writable": [folder for folder in ("/", "/tmp", "/var/tmp", "/opt/trivium", "/bundles", site) if can_write(folder)],
    "tools": [tool for tool in ("cc", "gcc", "g++", "clang", "make", "ld") if shutil.which(tool)],
    "services": sorted(path.name for path in (site / "services").iterdir() if path.is_dir() and path.name[0] != "_"),
    "gateway": (site / "gateway").exists(),
    "training": [str(path) for path in site.glob("services/**/training")],
    "bundles": sorted(path.parent.parent.name for path in site.glob("services/*/bundles/*/*/manifest.json")),
    "modules": [name for name in names if importlib.util.find_spec(name)],
    "inference": (site / "services/kit/inference").exists(),
    "reports": os.environ.get("ORT_DISABLE_TELEMETRY") != "1",
    "serve": pathlib.Path("/opt/trivium/bin/serve").read_text().splitlines()[0],
}))
"""


@pytest.fixture(scope="module")
def look(engine: Engine, images: Mapping[str, str]) -> Callable[[str], Any]:
    """What the image of a component looks like from inside."""

    def into(component: str) -> Any:
        container = engine.container(images[component], f"trivium-look-{component}", {}, {}, [PYTHON, "-c", LOOK])
        done = subprocess.run(
            container.command, env=container.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return into


@pytest.mark.parametrize("component", COMPONENTS)
def test_it_runs_as_10001_without_privileges_on_a_root_that_it_cannot_write(
    component: str, look: Callable[[str], Any]
) -> None:
    found = look(component)
    assert found["user"] in ([10001, 10001, 10001, []], [10001, 10001, 10001, [10001]])
    assert found["writable"] == []
    assert [line.split()[1].strip("0") for line in found["capabilities"]] == ["", "", "1"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_it_holds_no_compiler_no_pip_no_torch_and_no_training(component: str, look: Callable[[str], Any]) -> None:
    found = look(component)
    assert found["tools"] == []
    assert found["training"] == []
    assert not {"torch", "pip", "trivium.client"} & set(found["modules"])
    assert not found["reports"]
    assert found["serve"] == f"#!{PYTHON}"


def test_the_gateway_has_neither_numpy_nor_onnxruntime_nor_a_service(look: Callable[[str], Any]) -> None:
    found = look("gateway")
    assert found["modules"] == []
    assert found["services"] == ["kit"]
    assert found["gateway"]
    assert not found["inference"]
    assert found["bundles"] == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_itself_and_its_default_bundles_alone(service: str, look: Callable[[str], Any]) -> None:
    found = look(service)
    default = {path for path in os.listdir(f"services/{service}/bundles") if not path.startswith(".")}
    assert found["services"] == ["kit", service]
    assert not found["gateway"]
    assert set(found["bundles"]) == default
    assert default
    assert set(found["modules"]) == {"numpy", "onnxruntime", *OWN.get(service, ())}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"COMPONENT": "visoin"}, "COMPONENT is 'visoin'"),
        ({"COMPONENT": "vision", "VARIANT": "tpu"}, "VARIANT is 'tpu'"),
        ({"COMPONENT": "gateway", "VARIANT": "gpu"}, "the gateway computes nothing on a GPU"),
    ],
)
def test_a_build_that_asks_for_what_there_is_not_says_so(
    arguments: Mapping[str, str], said: str, engine: Engine, base: str
) -> None:
    with pytest.raises(AssertionError, match=f"error: {said}"):
        engine.build("localhost/trivium-wrong:image-test", {**arguments, "BASE_IMAGE": base})


@pytest.mark.usefixtures("gpu_wanted")
@pytest.mark.parametrize("service", SERVICES)
def test_a_gpu_image_holds_cudas_libraries_and_those_of_its_service(service: str, engine: Engine, base: str) -> None:
    image = f"localhost/trivium-{service}-gpu:image-test"
    engine.build(image, {"COMPONENT": service, "VARIANT": "gpu", "BASE_IMAGE": base})
    modules = ["numpy", *OWN_ON_A_GPU.get(service, ())]
    program = f"import {', '.join(modules)}, onnxruntime as o; o.preload_dlls(); print(o.get_available_providers())"
    container = engine.container(image, f"trivium-look-{service}-gpu", {}, {}, [PYTHON, "-c", program])
    done = subprocess.run(
        container.command, env=container.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "CUDAExecutionProvider" in done.stdout, done.stderr
    assert "Failed to load" not in done.stdout + done.stderr
