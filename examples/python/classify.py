"""Classifies images with the SDK: python examples/python/classify.py IMAGE..."""

import sys

from trivium.client import Client, TriviumCallError


def main() -> None:
    with Client() as client:  # TRIVIUM_ADDRESS, or localhost:8001
        for path, answer in client.classify_many(sys.argv[1:], top_k=3):
            if isinstance(answer, TriviumCallError):
                print(f"{path}: {answer}")
            else:
                print(f"{path}: " + ", ".join(f"{found.label} {found.probability:.1%}" for found in answer.classes))


if __name__ == "__main__":
    main()
