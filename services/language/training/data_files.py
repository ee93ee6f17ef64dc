"""Where installed libraries keep the data that is trained on; nothing of them is imported."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path


def catalogues(locales: Sequence[str]) -> tuple[Path, ...]:
    """The files with Django's messages in these locales, of Django itself and of the applications it comes with.

    Raises:
        FileNotFoundError: Django is not installed, or has no messages in one of the locales.
    """
    django, found = _folder("django"), list[Path]()
    for locale in locales:
        messages = f"locale/{locale}/LC_MESSAGES/*.mo"
        of_locale = sorted(path for place in ("conf", "contrib/*") for path in django.glob(f"{place}/{messages}"))
        if not of_locale:
            raise FileNotFoundError(f"Django has no messages in {locale}")
        found += of_locale
    return tuple(found)


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"{package} is not installed: `make setup-dev` installs it")
    return Path(found.submodule_search_locations[0])
