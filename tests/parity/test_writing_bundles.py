"""The committed bundles that write texts, against what their manifests promise."""

import re
from datetime import date
from functools import cache

import pytest
from tokenizers import Tokenizer

from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle
from services.kit.inference.manifest import Generation
from services.language.training import date_bundle, date_reader, dates, python_bundle, python_source, python_writer
from services.language.training.byte_models import Ngrams, gzip_bits_per_byte
from services.language.training.card import Card
from services.language.training.date_bundle import LANGUAGES
from services.language.training.date_formats import FORMATS
from services.language.training.graph_run import GraphRun
from services.language.training.recipes import FOLDER, digest
from services.language.training.writing_cards import CARDS

MIB = 1 << 20
EACH_FORMAT = 4  # held-out days of which none was measured when the bundle was made
SEED = 31
SAMPLE = 40_000  # tokens of held-out Python
TEXTS = {  # none of these days was trained on
    "on the 14th of february, 2024": "2024-02-14",
    "TUE, 7 DEC 1999": "1999-12-07",
    "１９８４年２月２９日": "1984-02-29",
    "二〇〇一年九月廿七日": "2001-09-27",
    "04/09/2001": "2001-09-04",
}


def name_of(card: Card) -> str:
    return card.name


@pytest.fixture(params=CARDS, ids=name_of)
def card(request: pytest.FixtureRequest) -> Card:
    found: Card = request.param
    return found


@cache
def load(name: str) -> tuple[Bundle, GraphRun, Tokenizer]:
    bundle = bundles.load(FOLDER / name / "1")
    encoder = bundle.path / "encoder.onnx"
    files = (bundle.path / "model.onnx").read_bytes(), encoder.read_bytes() if encoder.exists() else None
    return bundle, GraphRun(*files), Tokenizer.from_file(str(bundle.path / "tokenizer.json"))


def generation_of(name: str) -> Generation:
    generation = load(name)[0].manifest.generation
    assert generation is not None
    return generation


def values_of(name: str) -> dict[str, float]:
    metrics = load(name)[0].manifest.metrics
    assert metrics is not None
    return dict(metrics.values)


def test_training_again_would_change_nothing(card: Card) -> None:
    training = load(card.name)[0].manifest.training
    assert training is not None
    assert training.digest == digest(card), "run `make models` and commit what it writes"


def test_the_files_are_undamaged_and_small(card: Card) -> None:
    bundle = load(card.name)[0]
    bundles.verify_files(bundle)
    sizes = {path.name: path.stat().st_size for path in bundle.path.iterdir()}
    largest = {"dates-transformer": 2 * MIB, "python-gpt": 4 * MIB}[card.name]
    assert max(sizes.values()) <= largest
    assert sum(sizes.values()) <= 1.2 * largest


def test_dates_are_read_to_the_last_character() -> None:
    _, run, _ = load("dates-transformer")
    answers = date_bundle.right(run, dates.examination(EACH_FORMAT, SEED))
    every = [right for rights in answers.values() for right in rights]
    assert len(every) == EACH_FORMAT * len(FORMATS)
    assert sum(every) / len(every) >= 0.99
    for language in LANGUAGES:
        own = [right for each, rights in answers.items() if each.language == language for right in rights]
        assert sum(own) / len(own) >= 0.98


def test_dates_promises_hold_for_every_format_and_language() -> None:
    values = values_of("dates-transformer")
    promised = ["exact_match", *(f"exact_match_{language}" for language in LANGUAGES)]
    assert min(values[name] for name in promised) >= 0.99
    assert min(values[f"exact_match of {each.example}"] for each in FORMATS) >= 0.98
    assert list(generation_of("dates-transformer").formats) == [each.example for each in FORMATS]


def test_dates_are_read_whatever_their_case_and_width() -> None:
    assert all(dates.held_out(date.fromisoformat(day)) for day in TEXTS.values())
    _, run, characters = load("dates-transformer")
    sources = [date_reader.encode(text, characters) for text in TEXTS]
    generation = generation_of("dates-transformer")
    rows = run.continued([list(generation.begin)] * len(TEXTS), 12, generation.end, sources=sources)
    assert [characters.decode(row) for row in rows] == list(TEXTS.values())


def test_python_is_said_in_fewer_bits_than_by_gzip_and_by_a_5_gram_model() -> None:
    bundle, run, pairs = load("python-gpt")
    source, held_out = python_source.load()
    tokens = python_writer.encode(held_out.texts, pairs)[:SAMPLE]
    sample = pairs.decode(tokens.tolist()).encode()
    found = python_bundle.bits(run, tokens) / len(sample)
    five_gram = Ngrams("".join(source.texts).encode()).bits_per_byte(sample)
    assert found < min(five_gram, gzip_bits_per_byte("".join(held_out.texts).encode()))
    training, values = bundle.manifest.training, values_of("python-gpt")
    assert training is not None
    assert values["bits_per_byte"] < min(values["bits_per_byte_gzip"], values["bits_per_byte_5gram"])
    if source.digest in training.data:  # another Python has another library
        assert found == pytest.approx(values["bits_per_byte"], abs=0.2)
        assert gzip_bits_per_byte("".join(held_out.texts).encode()) == pytest.approx(
            values["bits_per_byte_gzip"], abs=0.01
        )


def test_python_goes_on_with_a_function() -> None:
    _, run, pairs = load("python-gpt")
    generation = generation_of("python-gpt")
    prompts = ["class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y", "import os\nimport"]
    tokens = [[*generation.begin, *pairs.encode(prompt, add_special_tokens=False).ids] for prompt in prompts]
    first, second = (pairs.decode(row) for row in run.continued(tokens, 12, generation.end))
    assert re.match(r" = \w+\n {8}", first)
    assert re.match(r" \w+\n", second)
    assert generation.max_tokens >= 512
