"""Classifies images with the SDK: python examples/python/classify.py IMAGE..."""

import sys

from trivium.client import Client, TriviumCallError


def main() -> int:
    paths = sys.argv[1:]
    if not paths:
        print(__doc__)
        return 2
    failed = 0
    with Client() as client:  # TRIVIUM_ADDRESS, or localhost:8001
        try:
            for path, answer in client.classify_many(paths, top_k=3):
                if isinstance(answer, TriviumCallError):
                    failed += 1
                    print(f"{path}: {answer}")
                else:
                    print(f"{path}: " + ", ".join(f"{found.label} {found.probability:.1%}" for found in answer.classes))
        except (TriviumCallError, OSError) as error:  # no server, or no such file
            failed += 1
            print(error)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
