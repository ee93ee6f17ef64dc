"""python -m deploy.local: ends without a fuss while it is still being imported."""

import subprocess
import sys

import pytest

INTERRUPTED_AT = """
import importlib.abc, os, runpy, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
        return None

sys.meta_path.insert(0, Interrupt())
runpy.run_module("deploy.local", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["click", "gateway.settings", "deploy.local.launcher"])
def test_an_interrupt_during_the_imports_ends_it_quietly(module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_AT.format(module=module)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
