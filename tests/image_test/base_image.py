"""The base image: the Dockerfile's own, or a stand-in of Debian packages where no registry of images is reached."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.image_test.engine import DOCKERFILE, ROOT, Engine, NoEngine

STAND_IN = "localhost/trivium-stand-in-base:bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"


def base_image(engine: Engine, folder: Path, say: Callable[[str], None]) -> str:
    """Its name; the image is here then.

    Raises:
        NoEngine: there is no image, and nothing to make one of packages with.
    """
    if chosen := os.environ.get("BASE_IMAGE"):
        return chosen
    default = default_base((ROOT / DOCKERFILE).read_text("utf-8"))
    if engine.has(default) or engine.pull(default):
        return default
    say(f"{default} cannot be pulled here: the base is a stand-in of Debian's own python3, larger than {default}")
    if not engine.has(STAND_IN):
        engine.import_root(_debian(folder), STAND_IN)
    return STAND_IN


def default_base(dockerfile: str) -> str:
    """The base that the recipe takes if nothing else is said."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    assert found, f"{DOCKERFILE} names no BASE_IMAGE"
    return found[1]


def _debian(folder: Path) -> Path:
    """A tar file of Debian with Python."""
    if not shutil.which("mmdebstrap"):
        raise NoEngine(
            "no registry of images is reached from here, and mmdebstrap is not installed to make a base of packages.\n"
            "Debian and Ubuntu: apt-get install mmdebstrap; or name a base that is here: make image-test BASE_IMAGE=..."
        )
    archive = folder / "base.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(archive)]
    subprocess.run(command, check=True, timeout=600)
    return archive
