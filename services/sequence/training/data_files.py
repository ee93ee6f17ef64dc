"""Where installed libraries keep the data that is trained on; nothing of them is imported."""

import importlib.util
from pathlib import Path


def digits() -> Path:
    """The file with scikit-learn's handwritten digits.

    Raises:
        FileNotFoundError: scikit-learn is not installed.
    """
    return _folder("sklearn") / "datasets" / "data" / "digits.csv.gz"


def sunspots() -> Path:
    """The file with statsmodels' yearly sunspots.

    Raises:
        FileNotFoundError: statsmodels is not installed.
    """
    return _folder("statsmodels") / "datasets" / "sunspots" / "sunspots.csv"


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"{package} is not installed: `make setup-dev` installs it")
    return Path(found.submodule_search_locations[0])
