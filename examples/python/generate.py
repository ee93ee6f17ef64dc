"""Continues a piece of Python, token by token: python examples/python/generate.py [PROMPT]"""

import sys

from trivium.client import Client, TriviumCallError

FUNCTION = "def fibonacci(n):\n"


def main() -> int:
    if len(sys.argv) > 2:
        print("usage: python examples/python/generate.py [PROMPT]", file=sys.stderr)
        return 2
    prompt = sys.argv[1] if len(sys.argv) > 1 else FUNCTION
    print(prompt, end="", flush=True)
    with Client() as client:  # TRIVIUM_ADDRESS, or localhost:8001
        try:
            for piece in client.generate(prompt, "python-gpt", temperature=0.8, max_new_tokens=64):
                print(piece.text, end="", flush=True)
        except (TriviumCallError, ValueError) as error:  # no server, or no text
            print(f"\n{error}")
            return 1
    print()
    if piece.usage:
        tokens = piece.usage.generated_tokens
        print(f"{piece.model}: {tokens} tokens, ended by {piece.finish_reason}; again with seed={piece.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
