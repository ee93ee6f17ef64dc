"""Where installed libraries keep the data that is trained on; nothing of them is imported."""

import importlib.util
from pathlib import Path


def digits() -> Path:
    """The file with scikit-learn's handwritten digits.

    Raises:
        FileNotFoundError: scikit-learn is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("scikit-learn is not installed: `make setup-dev` installs it")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
