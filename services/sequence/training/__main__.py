"""`make models`: trains and exports the default bundles whose training inputs have changed."""

from services.kit.training.recipe import make
from services.sequence.training.recipes import FOLDER, SAMPLES, recipes


def main() -> None:
    """Makes what is not up to date, and the sample series beside it."""
    made = make(FOLDER, recipes())
    if made or not SAMPLES.exists():
        from services.sequence.training import samples  # scikit-learn and statsmodels take seconds to import

        samples.write(SAMPLES)


if __name__ == "__main__":
    main()
