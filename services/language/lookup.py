"""PromptLookup: drafts of the tokens that may come next, from what stood behind the last ones before.

A draft costs no model: code and answers repeat what the text has already. Drafted tokens are computed in the run of the
newest one, and stay as far as each is the token that is drawn there anyway; so a text has the tokens that it would have
had, some of them sooner. (Speculative decoding: Leviathan et al., ICML 2023; drafts by prompt lookup: Saxena, 2023.)
"""

LONGEST = 3  # tokens that are looked for at most; more of them are found less often, and foretell little better
FIRST = 2  # tokens of the first draft


class PromptLookup:
    """Of one text. A draft is one longer than the one before it if that was right to its end, else one shorter."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}  # the place behind where some tokens stood last, not at the end
        self._next = FIRST

    @property
    def known(self) -> int:
        """How many tokens of the text it has seen."""
        return len(self._tokens)

    def add(self, tokens: list[int]) -> None:
        """What has come to the text since."""
        own, indexed = self._tokens, len(self._tokens)
        own += tokens
        for place in range(max(1, indexed), len(own)):
            for count in range(1, min(LONGEST, place) + 1):
                self._behind[tuple(own[place - count : place])] = place

    def draft(self, most: int) -> list[int]:
        """At most so many tokens that may come next; none where the last token has not stood before.

        Where the place is so near that its tokens end before the draft does, they are taken to repeat.
        """
        own, count = self._tokens, min(most, self._next)
        for length in range(min(LONGEST, len(own)), 0, -1):
            place = self._behind.get(tuple(own[-length:]))
            if place is not None:
                return [own[place + step % (len(own) - place)] for step in range(count)]
        return []

    def came(self, drafted: int, right: int) -> None:
        """So many tokens of a draft of `drafted` were drawn."""
        self._next = self._next + 1 if right == drafted else max(1, self._next - 1)
