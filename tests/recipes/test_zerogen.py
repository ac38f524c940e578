"""ZeroGen: entities by the model first, then texts about them, both cut where their quote closes."""

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

from synthray.errors import RunFailed
from synthray.model.language import Request, Response
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.run import Run

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers do not see tests/
LABELS = ("World", "Sports", "Business", "Sci/Tech")
OF_TEXTS = "FROM rows WHERE prompt_call IS NOT NULL"
"""Without what became of the entities."""

SECOND = re.compile(r'^The (\S+) news report under the headline "(.*)" is: "$')


def write(request: Request) -> str | Response:
    """Go on with a line as a weak model does: unfinished, too short, twice, beyond its quote."""
    assert request.prompt is not None, "the recipe asks for raw completions"
    draw = random.Random(request.seed)
    kind, number = draw.random(), draw.randrange(10_000)
    second = SECOND.match(request.prompt)
    if second is None:
        label = request.prompt.split()[0]
        if kind < 0.15:
            return Response(f"{label} and a story without an end {number}", "length")
        if kind < 0.25:
            return ""
        return f"The {label} story" if kind < 0.45 else f"The {label} affair of {number}"
    entity = second[2]
    if kind < 0.1:
        return entity.upper()
    if kind < 0.2:
        return "Too short."
    if kind < 0.3:
        return "The very same report was told once more in the same words."
    if kind < 0.5:
        return f'{entity} was the news of day {number}, people said." What comes then is not of the text.'
    if kind < 0.6:
        return f"{entity} was on all lips in town {number}.\nWrite another one."
    if kind < 0.7:
        return Response(
            f"{entity} has an end in year {number}. And this sentence is cut in the mid", "length"
        )
    return f"{entity} is what they spoke of in street {number} all day."


def speechless(request: Request) -> str | Response:
    """Name nothing for Sports."""
    return "" if request.prompt and request.prompt.startswith("Sports") else write(request)


@pytest.fixture(scope="module", name="run")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return scripted("zerogen", write).run(tmp_path_factory.mktemp("zerogen") / "run", quiet=True)


@pytest.mark.ray
class TestZerogen:
    def test_the_model_names_entities_first_and_each_text_is_about_one_of_its_label(self, run: Run) -> None:
        entities = {(row["label"], row["entity"]) for row in rows(run, "SELECT label, entity FROM entities")}
        assert {label for label, _ in entities} == set(LABELS)
        assert len(entities) == len({entity for _, entity in entities})
        assert not any("without an end" in entity for _, entity in entities)
        asked = rows(
            run,
            "SELECT r.label, r.entity, c.request->>'prompt' AS prompt FROM rows r JOIN calls c ON c.key = r.prompt_call",
        )
        assert len(asked) == 120
        for row in asked:
            found = SECOND.match(row["prompt"])
            assert found is not None
            assert (found[1], found[2]) == (row["label"], row["entity"])
            assert (row["label"], row["entity"]) in entities

    def test_entities_of_a_label_are_used_equally_often(self, run: Run) -> None:
        used = Counter((row["label"], row["entity"]) for row in rows(run, f"SELECT label, entity {OF_TEXTS}"))
        held = Counter(row["label"] for row in rows(run, "SELECT label FROM entities"))
        for label in LABELS:
            counts = [used[one] for one in used if one[0] == label]
            assert sum(counts) == 30
            assert len(counts) == min(held[label], 30)
            assert max(counts) - min(counts) <= 1

    def test_a_text_ends_where_its_quote_closes_or_its_last_sentence_ends(self, run: Run) -> None:
        found = rows(
            run,
            "SELECT d.text, d.entity, c.response, c.finish_reason AS finish "
            "FROM dataset d JOIN calls c ON c.key = d.prompt_call",
        )
        kinds: Counter[str] = Counter()
        for row in found:
            said, text = row["response"], row["text"]
            if '"' in said:
                kinds["quote"] += 1
                assert text == said.split('"')[0]
            elif "\n" in said:
                kinds["line"] += 1
                assert text == said.split("\n")[0]
            elif row["finish"] == "length":
                kinds["cut"] += 1
                assert text == said.split(" And this")[0]
            else:
                kinds["whole"] += 1
                assert text == said
        assert set(kinds) == {"quote", "line", "cut", "whole"}

    def test_what_is_no_text_of_its_own_is_rejected_with_its_reason(self, run: Run) -> None:
        found = reasons(run)
        of_entities = {name: found.pop(name) for name in ("no_entity", "same_entity")}
        assert min(of_entities.values()) > 0
        assert sum(of_entities.values()) == 48 - len(rows(run, "SELECT 1 AS x FROM entities"))
        assert set(found) == {"too_short", "repeats_the_entity", "exact_duplicate"}
        assert conserved(run)
        texts = [row["text"] for row in rows(run, "SELECT text FROM dataset")]
        assert len(texts) == len(set(texts)) == 120 - sum(found.values())
        assert len([text for text in texts if "very same" in text]) == 1

    def test_a_label_of_which_the_model_names_nothing_ends_the_run_and_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(RunFailed, match="Sports"):
            scripted("zerogen", speechless).run(tmp_path / "run", quiet=True)


@pytest.mark.ray
@pytest.mark.model
def test_on_the_embedded_model(ray_session: None, tmp_path: Path) -> None:
    # The table's own steps are named as in its pipeline.
    settings = ["entities_conditions.rows=16", "conditions.rows=4", "prompt.max_tokens=24"]
    pipeline = load("zerogen", settings=settings)
    run = pipeline.run(tmp_path / "run", quiet=True)
    assert len(rows(run, "SELECT 1 AS x FROM calls")) >= 4
    found = rows(run, f"SELECT label, entity, prompt_call {OF_TEXTS}")
    assert len(found) == 4
    assert all(row["entity"] and row["prompt_call"] for row in found)
    assert conserved(run)
