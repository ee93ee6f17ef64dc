"""What the bundle "recite" says, and the tokens of that."""

from tests.language_bundles import BEGIN, END, RECITED, tokenizer

CHARACTERS = tokenizer()
SAID: list[int] = CHARACTERS.encode(RECITED).ids
SENTENCE = RECITED.removesuffix(END)
ENDS, BEGINS = CHARACTERS.token_to_id(END), CHARACTERS.token_to_id(BEGIN)
