"""Reading: which prompts are read in the next run, and how much of each."""

from services.language.sequence import Sequence


class Reading:
    """Args:
    most_scored: tokens that are looked at in one run, each of which takes memory for the whole vocabulary.
    """

    def __init__(self, most_scored: int) -> None:
        self._most_scored = most_scored
        self._shortest_next = False

    def group(self, rows: list[Sequence], budget: int, room: int) -> list[int]:
        """The neighbouring slots whose prompts are read in one run of at most `budget` tokens; empty if none is.

        Where one run cannot have all of them, every second one begins with the prompt that has least left: a short one
        does not wait for long ones, and those go on.

        Args:
            rows: the texts in work, by slot.
            room: tokens that each row has memory for, with padding.
        """
        reading = [slot for slot, row in enumerate(rows) if row.to_read > 1 or row.scored_from is not None]
        group = _side_by_side(rows, reading, budget, room)
        if len(group) < len(reading):
            self._shortest_next = not self._shortest_next
            if self._shortest_next:
                shortest = min(reading, key=lambda slot: rows[slot].to_read)
                group = _side_by_side(rows, reading[reading.index(shortest) :], budget, room)
        return group

    def piece(self, sequence: Sequence, budget: int) -> int:
        """Tokens of it that such a run reads."""
        count = min(sequence.to_read, budget)
        return count if sequence.scored_from is None else min(count, before_scored(sequence) + self._most_scored)


def before_scored(sequence: Sequence) -> int:
    """Tokens that are read next before the one whose successor is looked at."""
    assert sequence.scored_from is not None
    return max(0, sequence.scored_from - 1 - sequence.cached)


def _side_by_side(rows: list[Sequence], reading: list[int], budget: int, room: int) -> list[int]:
    """As many of these slots, from the first one on, as are neighbours and fit into one run."""
    group: list[int] = []
    steps = 0
    for slot in reading:
        row = rows[slot]
        if group and slot != group[-1] + 1:
            break
        wider = max(steps, min(row.to_read, budget))
        members = [*group, slot]
        too_much = len(members) * wider > budget or row.scored_from is not None
        too_long = any(rows[member].cached + wider > room for member in members)
        if group and (too_much or too_long):
            break
        group, steps = members, wider
        if row.scored_from is not None:
            break
    return group
