"""What a call may cost is known before it is sent, and sums of money are exact."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from synthray.errors import InputError
from synthray.lineage import ordered
from synthray.model.language import Request
from synthray.model.price import NANO, NOTHING, Amount, Price

PRICE = Price.of({"input": 0.15, "output": 0.6})
ALPHABETS = ["abc {}\n", "éßø", "漢字かな", "\U0001f600\U0001f9d1\u200d", "\ud83d", "\x00\u2028"]


def text(chance: random.Random, most: int = 60) -> str:
    return "".join(chance.choices(chance.choice(ALPHABETS), k=chance.randint(0, most)))


def any_request(chance: random.Random) -> Request:
    """Return a request that says much or little, in any script."""
    raw = chance.random() < 0.3
    roles = chance.choices(["system", "user", "assistant"], k=0 if raw else chance.randint(1, 12))
    schema = {"type": "object", "properties": {text(chance): {"type": "string", "enum": [text(chance)]}}}
    return Request(
        messages=tuple({"role": role, "content": text(chance)} for role in roles),
        prompt=text(chance) if raw else None,
        prefill=text(chance) if chance.random() < 0.3 else "",
        schema=schema if chance.random() < 0.3 else None,
        max_tokens=chance.choice([1, 7, 256]),
        n=chance.choice([1, 1, 3]),
    )


def worst_tokens(request: Request) -> int:
    """Return the tokens of a prompt where each byte is one, in a template such as ChatML."""
    marks = {"<|im_start|>": 1, "<|im_end|>": 1, "\n": 1}
    template = [*marks, *marks] * len(request.messages) + ["<|im_start|>", *"assistant\n"]
    said = [value for message in request.messages for value in message.values()]
    said += [request.prompt or "", request.prefill, ordered(request.schema) if request.schema else ""]
    return len(template) + sum(len(one.encode(errors="replace")) for one in said)


@pytest.mark.parametrize("seed", range(20))
def test_no_call_takes_more_than_its_bound_in_any_script_and_any_form(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(30):
        request = any_request(chance)
        price = Price(chance.randint(0, 10**11), chance.randint(0, 10**11))
        bound = price.bound(request)
        answered = (request.max_tokens or 0) * request.n
        for share in (1.0, chance.random()):
            took = price.cost(int(worst_tokens(request) * share), int(answered * share))
            assert bound.tokens >= took.tokens
            assert bound.nano >= took.nano


@pytest.mark.parametrize(
    ("change", "tokens"),
    [
        ({"messages": ({"role": "user", "content": "漢字"},)}, 6),
        ({"messages": ({"role": "user", "content": ""}, {"role": "user", "content": ""})}, 5),
        ({"prefill": "é"}, 2),
        ({"prompt": "\U0001f600"}, 4),
        ({"schema": {"type": "object"}}, 17),
        ({"max_tokens": 110}, 10),
        ({"n": 2}, 100),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_all_that_is_sent_and_may_be_answered_counts(change: dict[str, Any], tokens: int) -> None:
    request = Request(messages=({"role": "user", "content": ""},), max_tokens=100)
    more, less = PRICE.bound(replace(request, **change)), PRICE.bound(request)
    assert more.tokens - less.tokens >= tokens
    assert more.nano > less.nano


def test_a_bound_is_no_more_than_what_it_must_hold() -> None:
    request = Request(messages=({"role": "user", "content": "x" * 1000},), max_tokens=500)
    assert PRICE.bound(request).tokens < 1000 + 500 + 150
    assert PRICE.bound(replace(request, max_tokens=None)).tokens < 1000 + 150


@pytest.mark.parametrize("seed", range(20))
def test_a_cost_is_rounded_up_by_less_than_a_nano_dollar(seed: int) -> None:
    chance = random.Random(seed)
    price = {name: round(10 ** chance.uniform(-6, 4), 9) for name in ("input", "output")}
    prompt, answer = chance.randint(0, 10**6), chance.randint(0, 10**6)
    exact = [Fraction(str(price[name])) * NANO / 10**6 for name in ("input", "output")]
    cost = Price.of(price).cost(prompt, answer)
    assert cost.tokens == prompt + answer
    assert 0 <= cost.nano - (prompt * exact[0] + answer * exact[1]) < 1


def test_a_million_calls_at_15_cents_a_million_tokens_cost_15_cents() -> None:
    assert (PRICE.prompt, PRICE.answer) == (150_000_000, 600_000_000)
    total = sum(itertools.repeat(PRICE.cost(1, 0), 10**6), NOTHING)
    assert (total, total.usd) == (Amount(10**6, 150_000_000), 0.15)
    chance = random.Random(0)
    costs = [PRICE.cost(chance.randint(0, 9999), chance.randint(0, 9999)) for _ in range(1000)]
    total = sum(costs, NOTHING)
    for cost in chance.sample(costs, len(costs)):
        total -= cost
    assert total == NOTHING


def test_without_a_price_tokens_count_and_money_does_not() -> None:
    price = Price.of(None)
    assert not price.known
    assert price.cost(3, 4) == Amount(7, 0)
    assert Price.of({"input": 0, "output": 0}).known


@pytest.mark.parametrize(
    "price",
    [
        {},
        {"input": 0.15},
        {"input": 0.15, "output": 0.6, "cached": 0.1},
        {"prompt": 0.15, "answer": 0.6},
        {"input": -0.15, "output": 0.6},
        {"input": float("inf"), "output": 0.6},
        {"input": float("nan"), "output": 0.6},
        {"input": "0.15", "output": 0.6},
        {"input": 0.15, "output": None},
        0.15,
    ],
    ids=str,
)
def test_a_price_that_is_none_is_told_with_an_example_of_one(price: Any) -> None:
    with pytest.raises(InputError) as caught:
        Price.of(price)
    assert str(caught.value) == (
        "model: price must say input and output, in US dollars for a million tokens, such as "
        f"{{input: 0.15, output: 0.6}}, but is {price!r}"
    )
