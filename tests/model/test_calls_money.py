"""A call costs what it says, in full where it does not say it, and a budget is never passed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from asking import asked, errors, lines, many

from synthray.errors import BudgetSpent
from synthray.model.calls import Call, Calls
from synthray.model.price import Amount
from synthray.model.store import history

if TYPE_CHECKING:
    from endpoint import Endpoint

    from synthray.model.language import Language
    from synthray.model.openai import OpenAI

PRICE = {"input": 1.0, "output": 2.0}  # of a token, in millionths of a dollar


def spent(model: Language, folder: Path) -> Amount:
    return history(folder, model.identity()).spent


def test_a_record_says_what_a_call_cost_in_full_where_the_answer_does_not(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path
) -> None:
    endpoint.script(first=["ok", "no_usage"])
    priced = replace(model, price=PRICE)
    calls = Calls(priced, str(tmp_path))
    told, untold = (asked(calls, one)[0].response for one in many(2))
    prompt, answer = told.prompt_tokens or 0, told.completion_tokens or 0
    known, unknown = lines(tmp_path)
    assert known["tokens"] == prompt + answer > 0
    assert known["cost"] == pytest.approx((prompt + 2 * answer) / 1e6)
    bound = priced.prices().bound(many(1)[0][0])
    assert (untold.completion_tokens, unknown["tokens"], unknown["cost"]) == (None, bound.tokens, bound.usd)
    assert spent(priced, tmp_path) == Amount(prompt + answer, 1000 * (prompt + 2 * answer)) + bound


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("faults", [["429", "500", "503"], ["reset", "half"], ["malformed", "hang"]], ids=str)
def test_what_may_have_been_paid_counts_in_full_and_a_refusal_costs_nothing(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path, faults: list[str]
) -> None:
    endpoint.script(per_request=faults, retry_after=0.01)
    priced = replace(model, price=PRICE, budget_usd=1.0, timeout_s=0.5 if "hang" in faults else 60)
    ((sent, origin),) = many(1, max_tokens=50)
    response = asked(Calls(priced, str(tmp_path)), (sent, origin))[0].response
    billed = 0 if "429" in faults else len(faults)
    marks = ["reserved", "lost" if billed else "released"] * len(faults) + ["reserved", "key"]
    assert [next(iter(line)) for line in lines(tmp_path)] == marks
    taken = priced.prices().cost(response.prompt_tokens or 0, response.completion_tokens or 0)
    for _ in range(billed):
        taken += priced.prices().bound(sent)
    assert spent(priced, tmp_path) == taken


def test_a_call_in_flight_when_its_process_is_killed_counts_in_full(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path
) -> None:
    endpoint.script(faults={"hang": 1})
    program = """
        import sys
        from synthray.model.calls import Calls
        from synthray.model.language import Request
        from synthray.model.openai import OpenAI

        model = OpenAI(name="m-1", base_url=sys.argv[1], budget_usd=1, price={"input": 1.0, "output": 2.0})
        request = Request(messages=({"role": "user", "content": "Say 000."},))
        calls = Calls(model, sys.argv[2])
        calls.run(calls.ask(request, ("row0", "step", 0)))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), endpoint.url, str(tmp_path)]
    with subprocess.Popen(command) as running:
        until = time.monotonic() + 60
        while not endpoint.hits() and time.monotonic() < until:
            assert running.poll() is None
        os.kill(running.pid, signal.SIGKILL)
    priced = replace(model, price=PRICE, budget_usd=1.0)
    assert len(endpoint.hits()) == 1
    assert spent(priced, tmp_path) == priced.prices().bound(many(1)[0][0]) != Amount()
    endpoint.script(faults={})
    assert not asked(Calls(priced, str(tmp_path)), *many(1))[0].reused


@pytest.mark.parametrize(
    ("name", "factor"), [("budget_tokens", 1), ("budget_usd", 1e-9)], ids=["tokens", "dollars"]
)
def test_a_budget_is_never_passed_and_a_raised_one_goes_on_from_what_is_kept(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path, name: str, factor: float
) -> None:
    work = many(40, max_tokens=40)
    of = "tokens" if name == "budget_tokens" else "nano"
    bound = getattr(replace(model, price=PRICE).prices().bound(work[0][0]), of)
    cap = 6 * bound
    poor = replace(model, price=PRICE, in_flight=4, **{name: cap * factor})
    ended = errors(Calls(poor, str(tmp_path)), *work)
    refused = [one for one in ended if isinstance(one, BudgetSpent)]
    answered = [one for one in ended if isinstance(one, Call)]
    assert 6 <= len(answered) == 40 - len(refused)
    assert f"{name}: " in str(refused[0])
    assert "raise it to go on, every answer is kept" in str(refused[0])
    assert 0 <= cap - getattr(spent(poor, tmp_path), of) < bound
    assert len(endpoint.hits()) == len(answered)

    with pytest.raises(BudgetSpent):  # the same again sends nothing
        asked(Calls(poor, str(tmp_path)), *work)
    assert len(endpoint.hits()) == len(answered)
    rich = replace(poor, **{name: cap * factor * 100})
    calls = asked(Calls(rich, str(tmp_path)), *work)
    assert sum(call.reused for call in calls) == len(answered)
    assert sorted(endpoint.counts().values()) == [1] * 40
