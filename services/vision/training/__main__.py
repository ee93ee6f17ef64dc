"""`make models`: trains and exports the default bundles whose training inputs have changed."""

from services.kit.training.recipe import make
from services.vision.training.recipes import FOLDER, SAMPLES, recipes


def main() -> None:
    """Makes what is not up to date, and the sample images beside it."""
    made = make(FOLDER, recipes())
    if made or not SAMPLES.exists():
        from services.vision.training import samples  # scikit-learn takes seconds to import

        samples.write(SAMPLES)


if __name__ == "__main__":
    main()
