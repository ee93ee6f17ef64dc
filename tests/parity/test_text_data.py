"""What the classifiers of texts are trained and measured on."""

import numpy as np
import pytest
import torch

from services.kit.training.recipe import Hyperparameters
from services.language.features import Ngrams
from services.language.training import langid, topics
from services.language.training.classifier import SUBJECTS, TextClassifier, batches
from services.language.training.labelled import Labelled, Split
from services.language.training.naive_bayes import NaiveBayes

SETTINGS = Hyperparameters(steps=1, batch=32, learning_rate=1e-3, weight_decay=0.0, seed=4)


@pytest.fixture(scope="module")
def phrases() -> Split:
    return langid.load()


@pytest.fixture(scope="module")
def short_texts() -> Split:
    return topics.load()


def test_no_message_id_and_no_phrase_is_in_both_parts(phrases: Split) -> None:
    train, held_out = set(phrases.train.texts), set(phrases.held_out["accuracy"].texts)
    assert not train & held_out
    languages_of = {True: dict[str, set[str]](), False: dict[str, set[str]]()}  # by whether the message is held out
    for language, message, text in langid._phrases():
        languages_of[langid.is_held_out(message)].setdefault(text, set()).add(language)
    assert train <= set(languages_of[False])
    assert held_out <= set(languages_of[True]) - set(languages_of[False])
    assert {len(languages_of[True][text]) for text in held_out} == {1}


def test_held_out_phrases_are_long_enough_and_there_are_some_of_each_language(phrases: Split) -> None:
    held_out = phrases.held_out["accuracy"]
    assert min(map(len, held_out.texts)) >= 16
    assert min(np.bincount(held_out.labels, minlength=len(langid.CLASSES))) >= 25
    assert 24 <= len(langid.CLASSES) <= 26
    assert not any(mark in text for text in held_out.texts for mark in ("%(", "%s", "{", "\n"))
    cut = phrases.held_out["accuracy_first_16_characters"]
    assert cut.labels == held_out.labels
    assert all(len(text) == 16 for text in cut.texts)


def test_catalogues_are_read_as_gettext_reads_them() -> None:
    import gettext

    (path,) = (path for path in langid.files() if path.parts[-5:-2] == ("conf", "locale", "de"))
    with path.open("rb") as file:
        german = gettext.GNUTranslations(file)
    found = dict(langid.read_catalogue(path))
    assert len(found) > 200
    for message in ("Enter a valid value.", "Afrikaans", "This field is required."):
        assert found[message] == [german.gettext(message)]
    plural = "Ensure this value has at least %(limit_value)d character (it has %(show_value)d)."
    assert found[plural][0] == german.ngettext(plural, plural, 1)
    assert len(found[plural]) == 2


def test_no_word_and_no_pattern_of_the_held_out_texts_is_trained_with(short_texts: Split) -> None:
    book = topics.read()
    kept = topics.held_out_words(book)
    everything = "\n".join(short_texts.train.texts)
    assert len(kept) > 300
    assert [word for word in kept if word in everything] == []
    skeletons = [topics.SLOT.split(pattern)[::2] for pattern in _held_out_patterns(book)]
    fixed = [max(parts, key=len) for parts in skeletons]
    assert [part for part in fixed if len(part) >= 6 and part in everything] == []


def test_new_texts_have_new_words_and_all_parts_are_apart(short_texts: Split) -> None:
    kept = topics.held_out_words(topics.read())
    new, known, written = (set(part.texts) for part in short_texts.held_out.values())
    assert not set(short_texts.train.texts) & (new | known | written)
    assert sum(any(word in text for word in kept) for text in new) > 0.85 * len(new)
    assert not any(word in text for word in kept for text in known)


def _held_out_patterns(book: topics.Book) -> list[str]:
    return [
        pattern
        for patterns in (book.shared, *(topic.patterns for topic in book.topics))
        for pattern in topics.held_out(patterns)
    ]


def test_every_topic_has_as_many_texts_and_no_word_is_in_two_topics(short_texts: Split) -> None:
    for part in (short_texts.train, *short_texts.held_out.values()):
        assert len(set(np.bincount(part.labels, minlength=len(topics.CLASSES)).tolist())) == 1
        assert not any("{" in text for text in part.texts)
    words = topics.read().words
    assert len(words) == len(set(words))


def test_the_same_seed_gives_the_same_texts(short_texts: Split) -> None:
    assert topics.load() == short_texts


def test_a_batch_has_features_of_its_texts_and_no_padding(short_texts: Split) -> None:
    subject = SUBJECTS["topics-zh"]
    first, second = (next(batches(subject, short_texts.train, SETTINGS)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    features, starts, labels = first
    assert features.min() >= 1
    assert features.max() <= subject.features.buckets
    assert starts[0] == 0
    assert len(starts) == len(labels) == SETTINGS.batch


def test_training_and_graph_see_the_same_network() -> None:
    subject = SUBJECTS["topics-zh"]
    network, rows = (
        TextClassifier.of(subject),
        [Ngrams(subject.features).ids(text) for text in ("股票涨了", "下雨", "")],
    )
    with torch.no_grad():
        network.table.weight[1:] += torch.randn(
            network.table.weight[1:].shape, generator=torch.Generator().manual_seed(1)
        )
    bags = [row[row != 0] for row in rows]
    starts = torch.tensor([0, len(bags[0]), len(bags[0]) + len(bags[1])])
    together = network.of_bags(torch.from_numpy(np.concatenate(bags)), starts)
    for row, logits in zip(rows, together, strict=True):
        alone, embedding = network(torch.from_numpy(row[np.newaxis]))
        assert torch.allclose(alone[0], logits, atol=1e-5)
        assert bool(embedding.any()) == bool(row.any())


def test_naive_bayes_finds_what_can_be_found_and_guesses_what_cannot() -> None:
    train = Labelled(["rain and snow", "snow and rain", "goal and match", "match and goal"], [0, 0, 1, 1])
    assert set(NaiveBayes(train, 2).accuracies(Labelled(["snow", "goal"], [0, 1])).values()) == {1}
    assert set(NaiveBayes(train, 2).accuracies(Labelled(["xyz", "xyz"], [0, 1])).values()) == {0.5}
