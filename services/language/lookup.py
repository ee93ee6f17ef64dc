"""PromptLookup: drafts of the tokens that may come next, from what stood behind the last ones before.

A draft costs no model: code and answers repeat what the text has already. Drafted tokens are computed in the run of the
newest one, and stay as far as each is the token that is drawn there anyway; so a text has the tokens that it would have
had, some of them sooner. (Speculative decoding: Leviathan et al., ICML 2023; drafts by prompt lookup: Saxena, 2023.)
"""

LONGEST = 3  # tokens that are looked for at most; more of them are found less often, and foretell little better
FIRST = 2  # tokens of the first draft
MEMORY = 8  # guesses that say how good the next one is
START = 0.6  # the part of them that is taken to be right before there are any
MISSES = 8  # tokens in a row that stood behind nothing known; what comes next is foretold by nothing then
LATER = 16  # tokens after which it is looked again, where there is no draft now
EARLY = 8  # tokens that it may be looked before, where runs in a row end anyway: they would end once more for it


class PromptLookup:
    """Of one text. A draft is one longer than the one before it if that was right to its end, else one shorter.

    How often its guesses are right it learns from every token that comes, also from those that were not drafted.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}  # the place behind where some tokens stood last, not at the end
        self._next = FIRST
        self._sure = START
        self._missed = 0  # tokens in a row

    @property
    def known(self) -> int:
        """How many tokens of the text it has seen."""
        return len(self._tokens)

    def due(self, sure: float) -> int:
        """How many new tokens it is worth to look again after, for a draft that is so sure."""
        return 1 if self._missed < MISSES and self._sure >= sure else LATER

    def add(self, tokens: list[int]) -> None:
        """What has come to the text since; of what stood there at first, only how new the last of it was is learnt."""
        own, made = self._tokens, bool(self._tokens)
        for number, token in enumerate(tokens, 0 if made else MISSES - len(tokens)):
            last = self._last()
            if number >= 0:
                self._learn(token, last, made=made)
            for some in last:
                self._behind[some] = len(own)
            own.append(token)

    def draft(self, most: int, sure: float = 0.0) -> list[int]:
        """At most so many tokens that may come next; none where the last token has not stood before.

        Where the place is so near that its tokens end before the draft does, they are taken to repeat.

        Args:
            sure: the part of the last guesses that must have been right.
        """
        own, place = self._tokens, self._place(self._last())
        if place is None or self._sure < sure:
            return []
        return [own[place + step % (len(own) - place)] for step in range(min(most, self._next))]

    def came(self, drafted: int, right: int) -> None:
        """So many tokens of a draft of `drafted` were drawn."""
        self._next = drafted + 1 if right == drafted else max(1, drafted - 1)

    def _last(self) -> list[tuple[int, ...]]:
        """The last tokens, as many as are looked for, then fewer, then one."""
        own = self._tokens
        return [tuple(own[-length:]) for length in range(min(LONGEST, len(own)), 0, -1)]

    def _place(self, last: list[tuple[int, ...]]) -> int | None:
        """Behind where the last tokens stood before, as many of them as did."""
        return next((self._behind[some] for some in last if some in self._behind), None)

    def _learn(self, token: int, last: list[tuple[int, ...]], *, made: bool) -> None:
        """What comes next is this token, which was made; or given, which says nothing of how good guesses are."""
        place = self._place(last)
        self._missed = self._missed + 1 if place is None else 0
        if made and place is not None:
            self._sure += ((self._tokens[place] == token) - self._sure) / MEMORY
