"""The SDK shares a process with what callers have."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("order", ["tritonclient.grpc, trivium.client", "trivium.client, tritonclient.grpc"])
def test_the_sdk_lives_beside_tritonclient(order: str) -> None:
    code = f"import {order}; import sys; assert 'inference.grpc_service_pb2' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error::UserWarning:trivium", "-c", code], check=True, timeout=60)


def test_the_sdk_reaches_nothing_of_the_services() -> None:
    code = (
        "import trivium.client.commands, trivium.client.language_commands, trivium.client.main;"
        "import trivium.client.sequence_commands, sys;"
        "strangers = {'services', 'gateway', 'deploy', 'inference', 'numpy'};"
        "found = {name.partition('.')[0] for name in sys.modules} & strangers;"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
