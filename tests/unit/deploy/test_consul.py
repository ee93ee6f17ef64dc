"""DevConsul: nothing of it is fixed or shared."""

import json
import os
import re
from pathlib import Path

import pytest

from deploy.local import consul
from deploy.local.consul import DevConsul, find_consul, version_of
from deploy.local.progress import Progress
from services.kit.errors import StartupError


def config(folder: Path, version: tuple[int, int] = (1, 8)) -> tuple[DevConsul, dict[str, int]]:
    made = DevConsul.create(Path("/bin/consul"), version, folder, {})
    return made, json.loads((folder / "config.json").read_text())["ports"]


def test_two_runs_share_no_port_and_none_is_a_default(tmp_path: Path) -> None:
    (first, ports), (second, others) = config(tmp_path / "a run"), config(tmp_path / "another")
    used = [port for port in (*ports.values(), *others.values()) if port > 0]
    assert len(used) == len(set(used)) == 6
    assert not set(used) & {8300, 8301, 8302, 8500, 8502, 8503, 8600}
    assert first.address == f"http://127.0.0.1:{ports['http']}" != second.address


@pytest.mark.parametrize(
    ("says", "version", "grpc_tls"),
    [
        ("Consul v1.8.7", (1, 8), None),
        ("Consul v1.13.9", (1, 13), None),
        ("Consul v1.14.0-dev", (1, 14), -1),
        ("Consul v1.21.4+ent", (1, 21), -1),
        ("Consul v2.0.0", (2, 0), -1),
        ("who knows", (0, 0), None),
    ],
)
async def test_a_port_that_two_runs_would_share_is_closed_where_consul_has_it(
    tmp_path: Path, says: str, version: tuple[int, int], grpc_tls: int | None
) -> None:
    binary = tmp_path / "consul"
    binary.write_text(f'#!/bin/sh\n[ "$*" = version ] && echo "{says}" && echo "Revision v9.9"\n')
    binary.chmod(0o755)
    assert await version_of(binary) == version
    _, ports = config(tmp_path, version)
    assert ports.get("grpc_tls") == grpc_tls


async def test_without_consul_it_says_why_and_how_to_install_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "deploy/local/get_consul"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\necho get_consul: looking >&2\necho get_consul: no mirror answers >&2\nexit 1\n")
    os.chmod(script, 0o755)
    monkeypatch.setattr(consul, "ROOT", tmp_path)
    with pytest.raises(StartupError, match="no mirror answers") as caught:
        await find_consul(Progress())
    assert "https://developer.hashicorp.com/consul/install" in caught.value.hint
    assert re.search(r"\d s looking", capsys.readouterr().out)
