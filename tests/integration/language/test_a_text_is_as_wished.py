"""A text is of the characters, the length and the tokens that were asked for, and its answer says so."""

import asyncio
from typing import Any

import pytest

from tests.bundles import SCRIPTS
from tests.integration.language.recited import BEGINS, CHARACTERS, ENDS, SAID, SENTENCE
from tests.language_bundles import BEGIN
from tests.language_suite import WISHES, Running
from tests.texts import LENGTH, STOP, Written

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_character_is_never_split(running: Running) -> None:
    for shift in (0, 3, 6, 24, 28):
        text = await running.gateway.text(model="recite", prompt_token_ids=[0] * (33 + shift), ignore_eos=True)
        assert text.tokens == (SAID * 4)[shift : shift + 64]
        assert text.text == CHARACTERS.decode(text.tokens)
        for made, characters in text.seams[:-1]:
            whole = CHARACTERS.decode(text.tokens[:made]).rstrip("\ufffd")  # what the tokens so far make
            assert text.text[:characters] == whole


async def test_what_is_no_character_is_said_when_that_is_certain(running: Running) -> None:
    cut = await running.one.text(model="recite", prompt_token_ids=[0] * 33, max_new_tokens=2)
    assert (cut.text, cut.tokens, cut.finish) == ("\ufffd", SAID[:2], LENGTH)
    assert await running.one.detokenize(SAID[:2], model="recite") == "\ufffd"


@pytest.mark.parametrize("name", WISHES)
async def test_the_text_is_that_of_the_tokens(running: Running, alone: dict[str, list[Written]], name: str) -> None:
    for text in alone[name]:
        model = WISHES[name].get("model", "gpt")
        decoded = await running.two.detokenize(text.tokens, model=model)
        if text.stop_string:
            assert decoded.startswith(text.text + text.stop_string)
        elif text.tokens[-1] in WISHES[name].get("stop_token_ids", ()):
            assert await running.two.detokenize(text.tokens[:-1], model=model) == text.text
        else:
            assert decoded == text.text


async def test_why_a_text_ended(running: Running, alone: dict[str, list[Written]]) -> None:
    ended = await running.one.text(model="recite", prompt="ab")
    assert (ended.finish, ended.text, ended.stop_string) == (STOP, CHARACTERS.decode(SAID[2:]), "")
    assert (ended.tokens, ended.generated_tokens) == (SAID[2:], len(SAID) - 2)
    (stopped,) = alone["stop strings"]  # its tokens are " the", " " and "e"
    assert (stopped.finish, stopped.stop_string) == (STOP, "he e")
    assert SENTENCE.endswith(SENTENCE[1 : SENTENCE.index("he e")] + SENTENCE[SENTENCE.index("he e") :])
    assert stopped.text == SENTENCE[1 : SENTENCE.index("he e")]
    assert CHARACTERS.decode(stopped.tokens).endswith("the e")
    newline = CHARACTERS.token_to_id("Ċ")
    halted = await running.one.text(model="recite", prompt="ab", stop_token_ids=[newline, 1])
    assert (halted.finish, halted.stop_string, halted.tokens[-1]) == (STOP, "", newline)
    assert halted.text == CHARACTERS.decode(SAID[2 : SAID.index(newline)])
    full = await running.one.text(model="recite", prompt="ab", max_new_tokens=5)
    assert (full.finish, full.generated_tokens, full.tokens) == (LENGTH, 5, SAID[2:7])
    (drawn,) = alone["stop tokens"]
    assert (drawn.finish, drawn.tokens[-1] % 16) == (STOP, 0)
    assert all(token % 16 or token > 255 for token in drawn.tokens[:-1])


async def test_usage_and_echo(running: Running) -> None:
    prompt = "三百 the"
    tokens = CHARACTERS.encode(prompt).ids
    for where in ("one", "gateway"):
        caller = running.at(where)
        plain = await caller.text(prompt=prompt, max_new_tokens=9)
        echoed = await caller.text(prompt=prompt, max_new_tokens=9, echo=True)
        assert (plain.prompt_tokens, plain.generated_tokens, plain.echoed) == (1 + len(tokens), 9, [])
        assert (echoed.echoed, echoed.text) == ([BEGINS, *tokens], prompt + plain.text)
        assert (echoed.tokens, echoed.prompt_tokens) == (plain.tokens, plain.prompt_tokens)
        both = await caller.texts(prompt_token_ids=tokens, max_new_tokens=3, echo=True, n=2, temperature=1, seed=1)
        for text in both:
            assert (text.echoed, text.text[: len(prompt)], text.prompt_tokens) == (tokens, prompt, len(tokens))
        source = await caller.text(model="translate", prompt=prompt, max_new_tokens=4)
        assert (source.prompt_tokens, source.generated_tokens) == (len(tokens) + 1, 4)


@pytest.mark.parametrize("where", ["one", "gateway"])
async def test_without_new_tokens_the_answer_is_the_end(running: Running, where: str) -> None:
    for wish in ({"prompt": "abc"}, {"prompt": "abc", "n": 2}, {"prompt": "x" * 255}):
        for text in await running.at(where).texts(**wish, max_new_tokens=0):
            assert (text.tokens, text.text, text.finish, text.generated_tokens) == ([], "", LENGTH, 0)
            assert text.prompt_tokens == 1 + len(str(wish["prompt"]))
    echoed = await running.at(where).text(prompt="abc", max_new_tokens=0, echo=True)
    assert (echoed.text, len(echoed.echoed), echoed.tokens) == ("abc", 4, [])


async def test_the_end_waits_for_as_many_tokens_as_were_asked_for(running: Running) -> None:
    first = len(SAID) - 2  # where it would end
    text = await running.one.text(model="recite", prompt="ab", min_new_tokens=first + 4)
    assert text.tokens[: first - 1] == SAID[2:-1]
    assert ENDS not in text.tokens[: first + 3]
    assert (text.finish, text.tokens[-1], len(text.tokens)) == (STOP, ENDS, first + len(SAID))
    on = await running.one.text(model="recite", prompt="ab", ignore_eos=True, max_new_tokens=60)
    assert (on.tokens, on.finish) == ((SAID * 3)[2:62], LENGTH)
    late = await running.one.text(model="recite", prompt="ab", stop=["🙂"], min_new_tokens=15)
    assert (late.text, late.stop_string) == (CHARACTERS.decode(SAID[2:24]), "🙂")
    token = await running.one.text(model="recite", prompt="ab", stop_token_ids=[SAID[6]], min_new_tokens=9)
    assert SAID[6] not in token.tokens[:8]  # a token that ends the text may not come before, as the model's own end
    assert (token.finish, token.tokens[-1]) == (STOP, SAID[6])


async def test_a_bias_forces_a_token_and_forbids_one(running: Running) -> None:
    forced = await running.one.text(prompt="q", logit_bias={70: 100.0}, max_new_tokens=20, temperature=2.0, seed=1)
    assert forced.tokens == [70] * 20
    plain = await running.one.text(prompt="q", max_new_tokens=1)
    other = await running.one.text(prompt="q", max_new_tokens=1, logit_bias={plain.tokens[0]: -100.0})
    assert other.tokens != plain.tokens


async def test_penalties_do_what_they_say(running: Running) -> None:
    """The best logit of "recite" is 8 and all others are nearly 0: what comes can be told."""
    wish: dict[str, Any] = {"model": "recite", "prompt": "z", "max_new_tokens": 12}
    often = await running.one.text(**wish, logit_bias={65: 20.0, 66: 19.0}, frequency_penalty=2.0)
    assert often.tokens[:7] == [65, 66, 65, 66, 65, 66, 65]
    once = await running.one.text(**wish, logit_bias={65: 20.0, 66: 19.0}, presence_penalty=1.5)
    assert once.tokens == [65, 66, *[65] * 10]
    again = await running.one.text(
        model="recite", prompt="z the", repetition_penalty=10.0, logit_bias={65: 5.0}, max_new_tokens=40
    )
    seen, expected = set(CHARACTERS.encode("z the").ids), []
    for token in (SAID * 3)[2:42]:  # 8 becomes 0.8 where the prompt or the text has the token, and 65 has nearly 5
        expected.append(65 if token in seen else token)
        seen.add(token)
        if expected[-1] == ENDS:
            break
    assert again.tokens == expected


async def test_tokens_and_back(running: Running) -> None:
    text = "def 三百🙂(the): return 'thing'  # é"
    for caller in (running.one, running.gateway):
        plain = await caller.tokenize(text)
        assert list(plain.token_ids) == CHARACTERS.encode(text).ids
        assert await caller.detokenize(plain.token_ids) == text
        special = await caller.tokenize(text, add_special_tokens=True)
        assert list(special.token_ids) == [BEGINS, *plain.token_ids]
        assert (special.tokens[0].piece, special.tokens[0].begin, special.tokens[0].end) == (BEGIN, 0, 0)
        assert await caller.detokenize(special.token_ids) == text
        assert await caller.detokenize(special.token_ids, keep_special_tokens=True) == BEGIN + text
        each = await caller.each_detokenized(special.token_ids, keep_special_tokens=True)
        assert each == [CHARACTERS.decode([token], skip_special_tokens=False) for token in special.token_ids]
        assert (await caller.each_detokenized(special.token_ids))[:2] == ["", each[1]]
        source = await caller.tokenize(text, add_special_tokens=True, model="translate")
        assert list(source.token_ids) == [*plain.token_ids, ENDS]
        assert (source.tokens[-1].begin, source.tokens[-1].end) == (len(text), len(text))
        for token in plain.tokens:
            assert 0 <= token.begin < token.end <= len(text)
        assert [text[token.begin : token.end] for token in plain.tokens if token.piece == "ing"] == ["ing"]
        assert (await caller.tokenize("")).token_ids == []
        assert await caller.detokenize([]) == ""


async def test_classes_and_vectors_of_texts(running: Running) -> None:
    texts = {"latin": "Some words", "greek": "λογος", "han": "三百二十一", "mixed": "ab三"}
    for caller in (running.one, running.gateway):
        for script in SCRIPTS:
            (best,) = (await caller.classify(model="scripts", text=texts[script], top_k=1)).classes
            assert (best.label, best.index) == (script, list(SCRIPTS).index(script))
            assert best.probability > 0.99
        ranked = (await caller.classify(model="scripts", text=texts["mixed"])).classes
        assert [one.label for one in ranked] == ["latin", "han", "greek"]
        assert sum(one.probability for one in ranked) == pytest.approx(1)
        assert await caller.embed(model="scripts", text=texts["mixed"]) == pytest.approx([2 / 3, 0, 1 / 3])
        many = await asyncio.gather(*(caller.embed(model="scripts", text="a" * (1 + n) + "三") for n in range(40)))
        assert many == [await running.two.embed(model="scripts", text="a" * (1 + n) + "三") for n in range(40)]


PHRASES = {
    "langid-text": {"en": "Please enter a valid email address.", "de": "Bitte geben Sie eine gültige Adresse ein."}
    | {
        "fr": "Veuillez saisir une adresse valide.",
        "zh": "请输入一个有效的电子邮件地址。",
        "ru": "Введите правильный адрес.",
    },
    "topics-zh": {
        "天气": "北京明天有大雨，出门记得带伞",
        "体育": "昨晚的足球比赛踢得很精彩",
        "财经": "今天股票又涨了不少",
    },
}


@pytest.mark.parametrize("where", ["one", "gateway"])
@pytest.mark.parametrize("name", PHRASES)
async def test_the_classifiers_that_come_along_know_plain_phrases(running: Running, name: str, where: str) -> None:
    caller = running.at(where)
    for label, text in PHRASES[name].items():
        ranked = (await caller.classify(model=name, text=text)).classes
        assert (ranked[0].label, len(ranked)) == (label, 5)
        assert len(await caller.embed(model=name, text=text)) > 8
