"""`make models`: trains and exports the default bundles whose training inputs have changed."""

from services.kit.training.recipe import make
from services.language.training.recipes import FOLDER, recipes


def main() -> None:
    """Makes what is not up to date."""
    make(FOLDER, recipes())


if __name__ == "__main__":
    main()
