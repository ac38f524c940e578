"""A call is tried again only where it may help, and every attempt counts."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from asking import ORIGIN, Counted, asked, errors, lines, many, no, request

from synthray.model.calls import Calls

if TYPE_CHECKING:
    from endpoint import Endpoint

    from synthray.model.openai import OpenAI


def gaps(endpoint: Endpoint) -> list[float]:
    return [later["at"] - earlier["at"] for earlier, later in pairwise(endpoint.hits())]


@pytest.mark.usefixtures("soon")
def test_only_what_may_do_better_is_tried_again_and_every_attempt_counts(tmp_path: Path) -> None:
    again = Counted(errors=(no("HTTP503", again=True, after_s=0.2), no("Timeout", again=True)), retries=2)
    started = time.monotonic()
    response = asked(Calls(again, str(tmp_path)), (request(), ORIGIN))[0].response
    assert time.monotonic() - started >= 0.2
    assert (response.text, response.attempts) == ("answer 3", 3)
    assert asked(Calls(Counted(), str(tmp_path)), (request(), ORIGIN))[0].response.attempts == 3

    for kind, retries, attempts in (("HTTP500", 1, 2), ("HTTP500", 0, 1), ("HTTP400", 5, 1)):
        failing = Counted(errors=(no(kind, again=kind == "HTTP500"),) * 9, retries=retries)
        (error,) = errors(Calls(failing, None), (request(), ORIGIN))
        assert (error.kind, error.attempts, len(failing.seen)) == (kind, attempts, attempts)


def test_each_pause_is_longer_than_the_one_before(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthray.model.calls._FIRST_PAUSE_S", 0.1)
    endpoint.script(per_request=["500", "503", "reset"])
    assert asked(Calls(model, None), *many(1))[0].response.attempts == 4
    assert [gap >= least for gap, least in zip(gaps(endpoint), (0.05, 0.1, 0.2), strict=True)] == [True] * 3


def test_being_told_to_wait_is_no_failure_and_is_heard_by_all(endpoint: Endpoint, model: OpenAI) -> None:
    endpoint.script(first=["429", "429", "429"], retry_after=0.2)
    answers = asked(Calls(replace(model, retries=0, in_flight=1), None), *many(4))
    assert sum(answer.response.attempts for answer in answers) == 7
    assert all(gap >= 0.2 for gap in gaps(endpoint)[:3])


@pytest.mark.usefixtures("soon")
def test_an_endpoint_that_says_nothing_but_wait_ends_the_run(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthray.model.calls.PATIENCE_S", 0.3)
    endpoint.script(faults={"429": 1}, retry_after=0.05)
    calls = Calls(replace(model, retries=0), None)
    ended = errors(calls, *many(5))
    assert {(error.kind, error.fatal) for error in ended} == {("HTTP429", True)}
    assert re.search("has answered no call for .* s: run again later", str(ended[0]))
    assert sum(gaps(endpoint)) > 0.2
    before = endpoint.counts()
    assert (errors(calls, *many(9))[8].fatal, endpoint.counts()) == (True, before)


@pytest.mark.usefixtures("soon")
def test_patience_begins_with_the_first_wait_and_anew_after_each_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("synthray.model.calls.PATIENCE_S", 0.0)
    busy = no("HTTP429", again=True)
    down = no("HTTP500", again=True)
    assert asked(Calls(Counted(errors=(down, down)), None), *many(1))[0].response.attempts == 3
    patient = Calls(Counted(errors=(busy, None, busy)), None)
    assert [asked(patient, one)[0].response.attempts for one in many(2)] == [2, 2]
    assert errors(Calls(Counted(errors=(busy, busy)), None), *many(1))[0].fatal


@pytest.mark.parametrize("kind", ["HTTP429", "HTTP503"])
def test_an_endpoint_that_wants_to_be_left_alone_for_long_ends_the_run_at_once(kind: str) -> None:
    model = Counted(errors=(no(kind, again=True, after_s=3600.0),), in_flight=1)
    ended = errors(Calls(model, None), *many(4))
    assert {(error.kind, error.fatal) for error in ended} == {(kind, True)}
    assert "wants to be left alone for 3600 s" in str(ended[0])
    assert len(model.seen) == 1


def test_no_call_is_sent_after_a_fatal_error_and_none_is_counted_that_was_not_sent(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path
) -> None:
    endpoint.script(ignore=["n"], latency=0.05)
    calls = Calls(replace(model, in_flight=3, budget_tokens=10**6), str(tmp_path))
    ended = errors(calls, *many(20, n=2))
    assert {(error.kind, error.fatal) for error in ended} == {("Unsupported", True)}
    assert calls.over
    sent = len(endpoint.hits())
    assert 1 <= sent <= 3
    assert Counter(next(iter(line)) for line in lines(tmp_path)) == {"reserved": sent, "lost": sent}
    assert all(error.fatal for error in errors(calls, *many(5)))
    assert len(endpoint.hits()) == sent


@pytest.mark.usefixtures("soon")
def test_of_300_calls_with_every_kind_of_fault_each_is_answered_once(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path
) -> None:
    billed = ["reset", "half", "malformed", "html", "408"]
    faults = [*billed, "409", "425", "429", "500", "503"]
    endpoint.script(faults=dict.fromkeys(faults, 0.02), retry_after=0.02)
    calls = asked(Calls(replace(model, retries=10), str(tmp_path)), *many(300))
    hits = endpoint.hits()
    assert {hit["fault"] for hit in hits} == {*faults, None}
    answered = [hit["id"] for hit in hits if hit["fault"] is None]
    assert len(answered) == len(set(answered)) == 300
    assert Counter(call.response.attempts for call in calls) == Counter(endpoint.counts().values())
    assert len({call.response.text for call in calls}) == 300
    kept = Counter(line.get("error", "answered") for line in lines(tmp_path))
    met = Counter(hit["fault"] for hit in hits)
    lost = {"Connection": met["reset"] + met["half"], "BadResponse": met["malformed"] + met["html"]}
    assert kept == {"answered": 300, "HTTP408": met["408"], **lost}
