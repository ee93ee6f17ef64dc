"""Python source to learn from: the standard library of the Python that runs, split by whole packages."""

import hashlib
import platform
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "encodings", "pydoc_data"}
)  # what others wrote, tests, and tables that no one would write by hand
MACHINE_MADE = ("_sysconfigdata", "config-")  # how this Python was built: beginnings of names
PARTS = 8  # one of so many packages is held out


@dataclass(frozen=True, slots=True)
class Source:
    """Some packages of the library, each with the texts of its files."""

    packages: dict[str, tuple[str, ...]]  # by name: of a folder, or of a file without ".py"

    @property
    def texts(self) -> list[str]:
        """The files, by package and path."""
        return [text for name in sorted(self.packages) for text in self.packages[name]]

    @property
    def size(self) -> int:
        """Bytes of UTF-8."""
        return sum(len(text.encode()) for text in self.texts)

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal digits of names and texts."""
        content = hashlib.sha256()
        for name in sorted(self.packages):
            for part in (name, *self.packages[name]):
                content.update(len(part.encode()).to_bytes(8, "big") + part.encode())
        return content.hexdigest()


def load(library: Path | None = None) -> tuple[Source, Source]:
    """What to train with and what is held out; no package is in both.

    Args:
        library: the folder that `import` finds the standard library in. None: that of the Python that runs.
    """
    found: dict[str, list[str]] = {}
    library = library or Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        text = None if _left_out(parts) else _text(path)
        if text:
            found.setdefault(parts[0].removesuffix(".py"), []).append(text)
    return _some(found, (name for name in found if not held_out(name))), _some(found, filter(held_out, found))


def held_out(package: str) -> bool:
    """Whether no training sees this package: chance by its name, so that nobody chose it."""
    return int(hashlib.sha256(package.encode()).hexdigest(), 16) % PARTS == 0


def release() -> str:
    """Whose library it is: "CPython 3.11.7"."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def _some(found: dict[str, list[str]], names: Iterable[str]) -> Source:
    return Source({name: tuple(found[name]) for name in names})


def _left_out(parts: tuple[str, ...]) -> bool:
    return not LEFT_OUT.isdisjoint(parts) or parts[0].startswith(MACHINE_MADE)


def _text(path: Path) -> str | None:
    """None for the few files that are not UTF-8."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return None
