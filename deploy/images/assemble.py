"""assemble.py COMPONENT ENVIRONMENT: one component of this checkout, and no other, into a virtual environment.

Runs while an image is built, under the base image's own Python. What the component runs goes to site-packages: its own
folder with its default bundles, the kit, the generated protos. `bin/serve` starts it.
"""

import compileall
import shutil
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
NOT_SERVED = ("__pycache__", "training", "samples", "README.md", "*.pyi", "*_pb2_grpc.py")
GATEWAY = "gateway"

LAUNCHER = '''#!{python}
"""Starts {module}; where it listens is as containers need it, unless the environment names another file."""
import os
import runpy

os.environ.setdefault("{variable}", "{settings}")
runpy.run_module("{module}", run_name="__main__", alter_sys=True)
'''


def main(component: str, environment: Path) -> None:
    """Assembles it.

    Raises:
        SystemExit: there is no such component, or it has no bundles.
    """
    known = components(CHECKOUT)
    if component not in known:
        sys.exit(f"error: COMPONENT is {component!r}\n  hint: it must be one of: {', '.join(known)}")
    site = next((environment / "lib").glob("python3.*/site-packages"))
    for source, ignored in parts(component):
        copy(CHECKOUT / source, site / source.removeprefix("protos/python/"), ignored)
    write_metadata(CHECKOUT, site)
    write_launcher(component, environment)
    compileall.compile_dir(site, quiet=1)


def components(checkout: Path) -> list[str]:
    """The gateway and every service of the checkout."""
    return [GATEWAY, *sorted(path.parent.name for path in (checkout / "services").glob("*/__main__.py"))]


def parts(component: str) -> list[tuple[str, tuple[str, ...]]]:
    """What the component consists of: paths in the checkout, each with names below it that are left out besides."""
    shared: list[tuple[str, tuple[str, ...]]] = [
        ("protos/python/inference", ()),
        ("protos/python/trivium", ("client",)),
        ("services/__init__.py", ()),
    ]
    if component == GATEWAY:
        return [*shared, ("services/kit", ("inference",)), ("gateway", ())]
    return [*shared, ("services/kit", ()), (f"services/{component}", ())]


def copy(source: Path, target: Path, ignored: tuple[str, ...]) -> None:
    """A file, or a folder without what no running process needs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_SERVED, *ignored))


def write_metadata(checkout: Path, site: Path) -> None:
    """The suite's name and version as an installed distribution has them: processes say their version by it."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["project"]
    folder = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir()
    lines = ("Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}")
    (folder / "METADATA").write_text(
        "".join(f"{line}\n" for line in (*lines, f"License: {project['license']}")), "utf-8"
    )
    for name in ("LICENSE", "NOTICE"):
        shutil.copyfile(checkout / name, folder / name)


def write_launcher(component: str, environment: Path) -> None:
    """`bin/serve`, and the settings file that it names."""
    kind = GATEWAY if component == GATEWAY else "service"
    settings, launcher = environment / "settings.toml", environment / "bin/serve"
    shutil.copyfile(CHECKOUT / f"deploy/images/{kind}.toml", settings)
    launcher.write_text(
        LAUNCHER.format(
            python=environment / "bin/python",
            module=GATEWAY if component == GATEWAY else f"services.{component}",
            variable=f"TRIVIUM_{component.upper()}__CONFIG",
            settings=settings,
        ),
        "utf-8",
    )
    launcher.chmod(0o755)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
