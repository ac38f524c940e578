"""AttrPrompt: attributes proposed by the model, judged, drawn, and each drawn value a column."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ray.cloudpickle
from scripting import conserved, reasons, rows, scripted

from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.model.language import Request
    from synthray.run import Run

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers do not see tests/
LABELS = ("World", "Sports", "Business", "Sci/Tech")
NEAR = {"World": "Business", "Sports": "none of these", "Business": "World", "Sci/Tech": "Business."}
CONFLICT = "a strike at the port"
"""Proposed as a subtopic for World and for Business, which are near each other, and for Sports, which is not."""

LINES = {
    "World": ["1. a vote", "2) a border", f"3. {CONFLICT}", "- an envoy.", "bad one", "x"],
    "Sports": ["* a cup final", "A Transfer", CONFLICT, "a cup final", "bad two"],
    "Business": ["1. shares", f"2. {CONFLICT.upper()}", "3. a merger", "4. bad three", "5. a loan"],
}
ALWAYS = {"dimensions": 1, "confusable": 4}


def write(request: Request) -> str:
    """Answer each question as a weak model does: numbered, repeated, off the mark, refused."""
    text, draw = request.messages[-1]["content"], random.Random(request.seed)
    if text.startswith("Name six ways"):
        return "Here you are:\n1. Place\n2. Style\n3. place\n4. Audience.\n\n5. Length\n6. Tone of voice used here\n7. Mood"
    if text.startswith("Which of these kinds"):
        return NEAR[_found(r"taken for (\S+) news", text)]
    if text.startswith("List eight"):
        dimension, label = re.findall(r"examples of (.+?) for (\S+) news", text)[0]
        if dimension == "subtopic":
            # Of one label nothing usable comes.
            return "\n".join(
                LINES.get(
                    label, ["I am sorry, but I cannot help to list anything at all about such news here."]
                )
            )
        return "\n".join(f"{number}. {dimension} {number} of {label}" for number in range(1, 9))
    if text.startswith("Is "):
        return "No." if "bad" in text or draw.random() < 0.2 else "Yes, it is."
    kind = draw.random()
    if kind < 0.1:
        return "I'm sorry, but I cannot write that report."
    if kind < 0.15:
        return "Dear [Your Name], the news of today is that all is well in town."
    if kind < 0.2:
        return "Nothing."
    if kind < 0.3:
        return "The council met and all members of it said the same as they had said a week before that."
    return " ".join(draw.choices([f"word{number}" for number in range(500)], k=20))


def refused(request: Request) -> str:
    """Refuse whatever is asked but the reports themselves."""
    text = request.messages[-1]["content"]
    return (
        write(request)
        if text.startswith("Write a")
        else "I'm sorry, but I cannot help with that request at all, as I said before."
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


@pytest.fixture(scope="module", name="run")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return scripted("attrprompt", write).run(tmp_path_factory.mktemp("attrprompt") / "run", quiet=True)


@pytest.mark.ray
class TestAttrprompt:
    def test_dimensions_are_the_first_usable_ones_that_the_model_names(self, run: Run) -> None:
        found = rows(run, "SELECT dimension FROM dimensions ORDER BY place")
        assert [row["dimension"] for row in found] == ["place", "audience"]

    def test_values_of_a_similar_label_and_those_judged_bad_are_dropped(self, run: Run) -> None:
        near = {row["label"]: row["near"] for row in rows(run, "SELECT label, near FROM confusable")}
        assert near["World"] == ["Business"]
        assert near["Business"] == ["World"]
        assert near["Sports"] == ["World", "Business", "Sci/Tech"], "all others, when none is named"
        held: dict[str, set[str]] = {}
        for row in rows(run, "SELECT label, value FROM attributes WHERE dimension = 'subtopic'"):
            held.setdefault(row["label"], set()).add(row["value"].lower())
        assert CONFLICT not in set().union(*held.values())
        assert "Sci/Tech" not in held
        assert {"a vote", "a border", "an envoy"} >= held["World"] - {"bad one"}
        found = reasons(run)
        assert found["of_a_similar_label"] == 3
        assert {
            "no_value",
            "same_value",
            "judged_bad",
            "no_dimension",
            "same_dimension",
            "enough_dimensions",
        } <= set(found)

    def test_a_judge_that_says_no_leaves_three_values(self, run: Run) -> None:
        sql = (
            "SELECT label, dimension, count(*) AS n, count(*) FILTER (verdict NOT LIKE 'Yes%') AS no "
            "FROM attributes GROUP BY ALL"
        )
        for row in rows(run, sql):
            assert row["n"] >= 3
            assert row["no"] == 0 or row["n"] == 3

    def test_every_sampled_value_is_a_column_and_stands_in_the_prompt(self, run: Run) -> None:
        found = rows(
            run,
            "SELECT r.label, r.length.low AS low, r.length.high AS high, r.subtopic, r.style, r.aspect, r.apart_from, "
            "c.request->'messages'->0->>'content' AS prompt "
            "FROM rows r JOIN calls c ON c.key = r.prompt_call",
        )
        assert len(found) == 100
        assert Counter(row["label"] for row in found) == dict.fromkeys(LABELS, 25)
        for row in found:
            first, *lines = row["prompt"].splitlines()
            assert f"a {row['label']} news report of {row['low']} to {row['high']} words" in first
            assert f"- Subtopic: {row['subtopic']}" in lines
            assert f"- Style: {row['style']}" in lines
            assert f"- {row['aspect'][0].upper()}{row['aspect'][1:]}" in lines
            assert f"not {row['apart_from']} news" in lines[3]
            assert row["label"] not in row["apart_from"].split(" or ")
            assert row["aspect"].split(": ")[0] in ("place", "audience")

    def test_no_subtopic_is_drawn_for_a_label_and_for_one_that_it_is_taken_for(self, run: Run) -> None:
        sql = (
            "SELECT a.subtopic FROM (SELECT DISTINCT label, lower(subtopic) AS subtopic FROM rows WHERE subtopic IS NOT NULL) a "
            "JOIN (SELECT DISTINCT label, lower(subtopic) AS subtopic FROM rows WHERE subtopic IS NOT NULL) b USING (subtopic) "
            "JOIN confusable c ON c.label = a.label AND list_contains(c.near, b.label)"
        )
        assert rows(run, sql) == []

    def test_a_label_without_a_usable_subtopic_takes_those_of_the_topics(self, run: Run) -> None:
        known = {row["value"] for row in rows(run, "SELECT value FROM topics WHERE key = 'Sci/Tech'")}
        sql = "SELECT DISTINCT subtopic FROM rows WHERE label = 'Sci/Tech' AND subtopic IS NOT NULL"
        assert {row["subtopic"] for row in rows(run, sql)} <= known
        of_world = {row["value"] for row in rows(run, "SELECT value FROM topics WHERE key = 'World'")}
        drawn = rows(run, "SELECT DISTINCT subtopic FROM rows WHERE label = 'World' AND subtopic IS NOT NULL")
        assert not of_world & {row["subtopic"] for row in drawn}

    def test_refusals_and_slots_are_rejected_and_bias_is_measured(self, run: Run) -> None:
        assert {"refusal", "template", "length", "near_duplicate"} <= set(reasons(run))
        assert conserved(run)
        bias = {
            row["slice"]: row["value"]
            for row in rows(
                run, "SELECT slice, value FROM metrics WHERE metric = 'bias' AND slice IS NOT NULL"
            )
        }
        # A subtopic is of one label here and tells it; the length was drawn for all alike.
        assert bias["attribute=subtopic"] == pytest.approx(1)
        assert bias["attribute=asked_words"] < 0.2


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_model_that_proposes_nothing_leaves_what_the_recipe_brings(tmp_path: Path) -> None:
    run = scripted("attrprompt", refused, "conditions.rows=12").run(tmp_path / "run", quiet=True)
    assert rows(run, "SELECT * FROM dimensions") == []
    assert rows(run, "SELECT * FROM attributes") == []
    drawn = rows(run, "SELECT style, aspect, subtopic FROM rows WHERE prompt_call IS NOT NULL")
    assert len(drawn) == 12
    assert {(row["style"], row["aspect"]) for row in drawn} == {("plain", "readers: all")}


@pytest.mark.ray
@pytest.mark.model
def test_on_the_embedded_model(ray_session: None, tmp_path: Path) -> None:
    settings = ["attributes_propose.max_tokens=48", "conditions.rows=4", "prompt.max_tokens=24"]
    run = load("attrprompt", settings=settings).run(tmp_path / "run", quiet=True)
    found = rows(
        run, "SELECT label, subtopic, style, aspect, apart_from FROM rows WHERE prompt_call IS NOT NULL"
    )
    assert len(found) == 4
    assert all(all(row.values()) for row in found)
    assert conserved(run)
