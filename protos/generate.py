"""Writes the Python code and descriptors.binpb from the protos: `make protos`; `--check` fails where they differ.

descriptors.binpb is a FileDescriptorSet of everything, with the comments of Trivium's own files.
"""

import argparse
import filecmp
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
OUT = ROOT / "python"
DESCRIPTORS = Path("trivium/descriptors.binpb")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi", DESCRIPTORS.name)


def sources() -> list[str]:
    """Every proto of ours, relative to the root."""
    return sorted(
        str(path.relative_to(ROOT)) for top in ("trivium", "inference") for path in (ROOT / top).rglob("*.proto")
    )


def generate(out: Path) -> None:
    """Writes all generated files below `out`."""
    with resources.as_file(resources.files("grpc_tools") / "_proto") as well_known:
        includes = [f"-I{ROOT}", f"-I{ROOT / 'third_party'}", f"-I{well_known}"]
        (out / DESCRIPTORS).parent.mkdir(parents=True, exist_ok=True)
        outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        scripts = Path(sys.executable).parent  # not on PATH where the environment is not activated
        plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
        described = ["--include_imports", "--include_source_info", f"--descriptor_set_out={out / DESCRIPTORS}"]
        if protoc.main(["protoc", *plugins, *includes, *outputs, *described, *sources()]):
            raise SystemExit("protoc failed; see its messages above")


def generated(folder: Path) -> Iterator[Path]:
    """The generated files below `folder`, relative to it."""
    return (path.relative_to(folder) for pattern in GENERATED for path in folder.rglob(pattern))


def differences(fresh: Path) -> list[str]:
    """What is missing, left over or changed in the committed tree."""
    ours, theirs = set(generated(OUT)), set(generated(fresh))
    changed = {path for path in ours & theirs if not filecmp.cmp(OUT / path, fresh / path, shallow=False)}
    return sorted(map(str, (ours ^ theirs) | changed))


def main() -> None:
    """Generates, or with --check compares."""
    parser = argparse.ArgumentParser(description="Generate the Python code from protos/.")
    parser.add_argument("--check", action="store_true", help="fail if the committed files are not what the protos give")
    if not parser.parse_args().check:
        for stale in list(generated(OUT)):
            (OUT / stale).unlink()
        generate(OUT)
        print(f"generated {sum(1 for _ in generated(OUT))} files from {len(sources())} protos")
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        if found := differences(Path(folder)):
            sys.exit("generated code differs from the protos; run `make protos`:\n  " + "\n  ".join(found))
    print("generated code is what the protos give")


if __name__ == "__main__":
    main()
