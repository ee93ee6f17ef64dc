import random
from collections import Counter

import numpy as np

from services.language.sampling import FORBIDDEN, Adjustments, Sampling, seed_of, uniform


def adjusted(adjustments: Adjustments) -> dict[int, tuple[float, float]]:
    tokens, scales, biases = adjustments.now()
    pairs = zip(scales.tolist(), biases.tolist(), strict=True)
    return {
        token: (round(scale, 5), round(bias, 5)) for token, (scale, bias) in zip(tokens.tolist(), pairs, strict=True)
    }


def test_a_draw_is_a_function_of_seed_and_position() -> None:
    assert uniform(7, 3) == uniform(7, 3)
    assert len({uniform(seed, position) for seed in range(40) for position in range(40)}) > 1590


def test_draws_are_uniform_and_exact_in_float32() -> None:
    draws = np.array([uniform(1, position) for position in range(20_000)])
    assert np.all((draws >= 0) & (draws < 1))
    assert np.array_equal(draws.astype(np.float32).astype(np.float64), draws)
    assert abs(draws.mean() - 0.5) < 0.01
    assert np.abs(np.histogram(draws, 16, (0, 1))[0] / len(draws) - 1 / 16).max() < 0.01


def test_a_seed_and_a_position_of_64_bits_do_not_overflow() -> None:
    assert 0 <= uniform((1 << 64) - 1, (1 << 64) - 1) < 1


def test_each_text_of_a_request_has_a_seed_of_its_own() -> None:
    assert seed_of(5, 0) == 5
    assert len({seed_of(5, choice) for choice in range(8)} | {seed_of(6, choice) for choice in range(8)}) == 16


def test_a_repetition_penalty_looks_at_prompt_and_text() -> None:
    adjustments = Adjustments(Sampling(repetition_penalty=1.5), [1, 2, 2], frozenset())
    assert adjusted(adjustments) == {1: (1.5, 0), 2: (1.5, 0)}
    adjustments.made(9)
    assert adjusted(adjustments) == {1: (1.5, 0), 2: (1.5, 0), 9: (1.5, 0)}


def test_presence_and_frequency_look_at_the_text_alone() -> None:
    adjustments = Adjustments(Sampling(presence_penalty=0.5, frequency_penalty=0.25), [1], frozenset())
    assert adjusted(adjustments) == {}
    for token in (3, 4, 3):
        adjustments.made(token)
    assert adjusted(adjustments) == {3: (1, -1.0), 4: (1, -0.75)}


def test_biases_are_added() -> None:
    adjustments = Adjustments(Sampling(logit_bias={4: 2.5}, presence_penalty=1.0), [], frozenset())
    assert adjusted(adjustments) == {4: (1, 2.5)}
    adjustments.made(4)
    assert adjusted(adjustments) == {4: (1, 1.5)}


def test_ends_are_forbidden_until_enough_tokens_were_made() -> None:
    adjustments = Adjustments(Sampling(min_new_tokens=2), [], frozenset({8}))
    assert adjustments.now()[2].tolist() == [np.float32(FORBIDDEN)]
    adjustments.made(1)
    assert adjustments.now()[2].tolist() == [np.float32(FORBIDDEN)]
    adjustments.made(1)
    assert adjustments.now()[2].tolist() == [0.0]


def test_a_long_text_with_every_wish_has_what_its_tokens_say() -> None:
    sampling = Sampling(
        repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={3: 1.0}, min_new_tokens=300
    )
    source = random.Random(5)
    tokens, prompt = [source.randrange(200) for _ in range(600)], [200, 3]
    adjustments = Adjustments(sampling, prompt, frozenset({250}))
    for number, token in enumerate(tokens, 1):
        adjustments.made(token)
        if number % 97 and number not in (299, 300):
            continue
        counts = Counter(tokens[:number])
        expected = {token: (1.5, (token == 3) - 0.5 - 0.25 * count) for token, count in counts.items()}
        expected |= {token: (1.5, float(token == 3)) for token in prompt if token not in counts}
        expected[250] = (1.0, round(float(np.float32(FORBIDDEN)), 5) if number < 300 else 0.0)
        assert adjusted(adjustments) == expected
