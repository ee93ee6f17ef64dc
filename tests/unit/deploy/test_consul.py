"""DevConsul: nothing of it is fixed or shared."""

import json
import os
import re
from pathlib import Path

import pytest

from deploy.local import consul
from deploy.local.consul import DevConsul, find_consul
from deploy.local.progress import Progress
from services.kit.errors import StartupError


def config(folder: Path) -> tuple[DevConsul, dict[str, int]]:
    made = DevConsul.create(Path("/bin/consul"), folder, {})
    return made, json.loads((folder / "config.json").read_text())["ports"]


def test_two_runs_share_no_port_and_none_is_a_default(tmp_path: Path) -> None:
    (first, ports), (second, others) = config(tmp_path / "a run"), config(tmp_path / "another")
    used = [port for port in (*ports.values(), *others.values()) if port > 0]
    assert len(used) == len(set(used)) == 6
    assert not set(used) & {8300, 8301, 8302, 8500, 8502, 8600}
    assert first.address == f"http://127.0.0.1:{ports['http']}" != second.address


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
