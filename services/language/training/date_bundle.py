"""The bundle dates-transformer: trained, exported and measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from services.kit.inference.bundle import Bundle
from services.kit.inference.manifest import Metrics
from services.language.training import date_reader, dates, resumable, written
from services.language.training.card import Card
from services.language.training.date_formats import FORMATS, Format
from services.language.training.date_reader import BEGIN_TOKEN, END_TOKEN, LENGTH, encode
from services.language.training.export import export, write
from services.language.training.graph import describe
from services.language.training.graph_run import GraphRun
from services.language.training.writing_cards import DATE_WEIGHTS

EACH_FORMAT = 200  # held-out days that are measured
SEED, UNTIDY_SEED = 20260105, 20260106  # no training uses them
KNOWN = 3  # texts of the known answers
LANGUAGES = ("english", "chinese", "numbers")


def build(folder: Path, card: Card, digest: str) -> Bundle:
    """Trains, exports, measures and writes `folder`/NAME/1.

    Raises:
        ParityError: the exported graph computes something else than the network.
    """
    saved = resumable.saved(card.name, written.weights_digest(card, DATE_WEIGHTS))
    network = date_reader.train(card.settings, card.name, saved)
    characters = date_reader.tokenizer()
    some = [pairs[0] for pairs in dates.examination(1, SEED).values()][:: len(FORMATS) // KNOWN][:KNOWN]
    sources, _, targets = date_reader.batch(some, characters)
    lengths = [len(encode(text, characters)) for text, _ in some]
    exported = export(
        network,
        half_file=True,
        texts=targets.tolist(),
        sources=[row[:length] for row, length in zip(sources.tolist(), lengths, strict=True)],
    )
    generation = describe(
        network,
        begin=(BEGIN_TOKEN,),
        end=(END_TOKEN,),
        source_end=(END_TOKEN,),
        formats=[each.example for each in FORMATS],
    )
    return write(
        folder,
        card.name,
        exported,
        generation,
        characters.to_str().encode(),
        description=card.description,
        training=written.training(card, card.data, digest),
        metrics=measure(exported.run, card.held_out),
        limits=card.limits,
    )


def measure(run: GraphRun, data: str, each_format: int = EACH_FORMAT) -> Metrics:
    """What the graphs get right, to the last character: in all, by language, by format, and of untidy texts."""
    tidy = right(run, dates.examination(each_format, SEED))
    untidy = right(run, dates.examination(each_format, UNTIDY_SEED, spoil=True))
    values = {"exact_match": _part(tidy, FORMATS), "exact_match_untidy": _part(untidy, FORMATS)}
    for language in LANGUAGES:
        values[f"exact_match_{language}"] = _part(tidy, [each for each in FORMATS if each.language == language])
    values |= {f"exact_match of {each.example}": _part(tidy, [each]) for each in FORMATS}
    return Metrics(data=data, samples=each_format * len(FORMATS), values=values)


def right(run: GraphRun, examination: Mapping[Format, Sequence[dates.Pair]]) -> dict[Format, list[bool]]:
    """Whether each text is read as it must be, the likeliest character after the other."""
    characters, found = date_reader.tokenizer(), {}
    for each, pairs in examination.items():
        sources = [encode(text, characters) for text, _ in pairs]
        begins = [[BEGIN_TOKEN]] * len(pairs)
        rows = run.continued(begins, LENGTH + 1, (END_TOKEN,), sources=sources)
        wanted = [[*characters.encode(day, add_special_tokens=False).ids, END_TOKEN] for _, day in pairs]
        found[each] = [row == day for row, day in zip(rows, wanted, strict=True)]
    return found


def _part(answers: Mapping[Format, Sequence[bool]], formats: Sequence[Format]) -> float:
    every = [answer for each in formats for answer in answers[each]]
    return round(sum(every) / len(every), 4)
