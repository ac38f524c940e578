"""The answer of most samples wins, by rules that do not depend on anything but the samples."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synthray.curate.vote import Vote
from synthray.errors import InputError
from synthray.final_answer import final


def voted(samples: list[str | None] | None, **settings: Any) -> dict[str, Any]:
    table = pa.table({"row_id": ["r"], "samples": pa.array([samples], pa.list_(pa.string()))})
    return dict(Vote(samples="samples", **settings)(table).to_pylist()[0])


def test_the_most_frequent_answer_wins_however_it_is_written() -> None:
    row = voted(["it is 7", "so 12.0 eggs", "12", "#### 12", "no idea"])
    assert (row["vote_answer"], row["vote_count"], row["vote_share"]) == ("12", 3, 0.6)
    assert row["vote_sample"] == "12"


def test_of_equal_votes_the_shorter_text_wins_then_the_first() -> None:
    assert voted(["it is 7", "8", "it is 8", "7!!"])["vote_answer"] == "8"
    assert voted(["7", "8"])["vote_answer"] == "7"
    assert voted(["8", "7"])["vote_answer"] == "8"
    assert voted(["a 7", "b 7"])["vote_sample"] == "a 7"


def test_too_small_a_share_elects_nobody_and_says_what_it_was() -> None:
    row = voted(["1", "1", "2", "3"], least=0.6)
    assert (row["vote_answer"], row["vote_sample"]) == (None, None)
    assert (row["vote_count"], row["vote_share"]) == (2, 0.5)
    assert voted(["1", "1", "2", "3"], least=0.5)["vote_answer"] == "1"


def test_without_answers_there_is_no_vote() -> None:
    assert voted(["no", None])["vote_share"] == 0.0
    assert voted(["no", None])["vote_answer"] is None
    assert voted([])["vote_share"] is None
    assert voted(None)["vote_count"] == 0


def test_texts_and_choices_vote_too() -> None:
    assert voted(["Paris.", "paris", "Rome"], answer="exact")["vote_answer"] == "paris"
    assert voted(["(B)", "The answer is (B).", "(A)"], answer="choice")["vote_answer"] == "B"
    assert voted(["50%", "50 %", "0.5"])["vote_answer"] == "50"


def test_a_column_that_holds_no_lists_of_texts_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"'samples' must hold lists of texts, but is string.*ORDER BY row_id"
    ):
        Vote(samples="samples").check(pa.schema({"samples": pa.string()}))
    Vote(samples="samples").check(pa.schema({"samples": pa.large_list(pa.string())}))


@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
def test_four_models_together_beat_their_mean_on_gsm8k() -> None:
    import pyarrow.parquet as pq

    held = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "gsm8k_model_solutions.parquet").to_pylist()
    problems: dict[int, list[dict[str, Any]]] = {}
    for row in held:
        problems.setdefault(row["problem"], []).append(row)
    samples = [[row["solution"] for row in rows] for rows in problems.values()]
    truth = [final(rows[0]["reference"], "numeric") for rows in problems.values()]
    table = pa.table({"row_id": list(map(str, problems)), "samples": samples})
    elected = Vote(samples="samples")(table)
    right = [one == other for one, other in zip(elected["vote_answer"].to_pylist(), truth, strict=True)]
    mean = sum(row["is_correct"] for row in held) / len(held)
    assert sum(right) / len(right) > mean
    sure = [one for one, share in zip(right, elected["vote_share"].to_pylist(), strict=True) if share >= 0.75]
    assert sum(sure) / len(sure) > sum(right) / len(right), "where most agree they are right more often"
    by_force = [Counter(final(text, "numeric") for text in texts).most_common(1)[0][1] for texts in samples]
    assert elected["vote_count"].to_pylist() == by_force
