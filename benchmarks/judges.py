"""Judges against people, replayed: no model is asked, recorded answers are read by the operators themselves.

SYNTHRAY_DATA=DIR uv run python benchmarks/judges.py NAME     # llmbar, unieval, preference, coverage, speed
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import menu
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from real import read
from scipy import stats

from synthray.evaluate.judge import Judge
from synthray.evaluate.preference import Preference
from synthray.generate.prompt import Prompt
from synthray.model.fake import Fake
from synthray.operator import Context
from synthray.query import Query
from synthray.statistic.strength import ELO

if TYPE_CHECKING:
    from synthray.model.language import Request

SAYS = {"first": "Output (a)", "second": "Output (b)"}
WORDS = ("Vanilla", "Vanilla_NoRules", "Metrics", "Reference", "Metrics_Reference")
"""Prompts that ask for the verdict alone: what was recorded of their answers is whole."""


def measured(operator: Judge, table: pa.Table) -> dict[str, dict[str, Any]]:
    with Query({"rows": table}) as query:
        return {one["slice"] or one["metric"]: one for one in operator.measure(query).to_pylist()}


def shown(one: Mapping[str, Any]) -> str:
    if one["ci_low"] is None:
        return f"{one['value']:.3f}"
    return f"{one['value']:.3f} [{one['ci_low']:.3f}, {one['ci_high']:.3f}]"


def replayed(
    pairs: pa.Table, said: Mapping[int, Mapping[str, Any]], *, plain: bool
) -> tuple[Judge, pa.Table, int]:
    """Return the operator, rows with verdicts, and how many rows failed; `plain` reads recorded words."""
    table = pa.table(
        {
            "row_id": [f"{one:04}" for one in pairs["idx"].to_pylist()],
            "idx": pairs["idx"],
            "one": pairs["output_1"],
            "other": pairs["output_2"],
            "human": ["left" if one == 1 else "right" for one in pairs["gold"].to_pylist()],
        }
    )
    firsts = dict(zip(pairs["idx"].to_pylist(), pairs["output_1"].to_pylist(), strict=True))

    def script(request: Request) -> str:
        number, _, first = request.messages[-1]["content"].partition("#")
        swapped = first.strip() != firsts[int(number)].strip()
        row = said[int(number)]
        if plain:
            return str(row["completion_swapped" if swapped else "completion"])
        winner = row["winner_swapped" if swapped else "winner"]
        return json.dumps({"better": "first" if (winner == "1") != swapped else "second"}) if winner else ""

    operator = Judge(
        text="one",
        against="other",
        template="{{ idx }}#{{ first }}",
        ties=False,
        says=SAYS if plain else None,
        human="human",
        reasks=0,
        context=Context(step="judge", language=Fake(script=script, retries=0)),
    )
    out = operator(table)
    fine = out.filter(pc.is_null(out["failed"])).drop_columns(["failed"])
    return operator, fine, len(out) - len(fine)


def llmbar(_: argparse.Namespace) -> None:
    """Replay the judges of LLMBar/Natural: our parser on their words, our verdicts on the recorded ones."""
    pairs, said = read("llmbar_pairs"), read("llmbar_judge_verdicts")
    pairs = pairs.filter(pc.equal(pairs["subset"], "LLMBar/Natural"))
    said = said.filter(pc.equal(said["subset"], "LLMBar/Natural"))
    known = Counter((row["judge"], row["strategy"]) for row in said.to_pylist())
    words, other, alone = 0, 0, [0, 0]
    for (judge, strategy), rows in sorted(known.items()):
        if rows != len(pairs):
            continue
        chosen = pc.and_(pc.equal(said["judge"], judge), pc.equal(said["strategy"], strategy))
        own = {row["idx"]: row for row in said.filter(chosen).to_pylist()}
        operator, fine, failed = replayed(pairs, own, plain=False)
        if strategy in WORDS:
            _, again, _ = replayed(pairs, own, plain=True)
            recorded, ours = verdicts(fine), verdicts(again)
            both = recorded.keys() & ours.keys()
            words += 2 * len(both)
            other += sum(
                one != two for row in both for one, two in zip(recorded[row], ours[row], strict=True)
            )
            alone = [alone[0] + len(recorded.keys() - both), alone[1] + len(ours.keys() - both)]
        found = measured(operator, fine)
        of_all = found["verdict_agreement"]["value"] * len(fine) / len(pairs)
        print(
            f"{judge:13} {strategy:25} accuracy {of_all:.3f} (of {len(fine)} read: "
            f"{shown(found['verdict_agreement'])}), one winner in both orders "
            f"{1 - found['position_bias']['value']:.3f}, for the first "
            f"{found['position=first']['value']:.2f}, the second {found['position=second']['value']:.2f}, "
            f"agreement with ties {shown(found['agreement'])}, kappa {shown(found['cohen_kappa'])}, "
            f"failed {failed}"
        )
    print(
        f"verdicts read from words by us and by LLMBar: {words}, others than recorded: {other}; rows that "
        f"LLMBar alone read: {alone[0]}, that we alone read: {alone[1]}"
    )


def verdicts(table: pa.Table) -> dict[str, tuple[str, str]]:
    columns = (table[name].to_pylist() for name in ("row_id", "judge_first", "judge_second"))
    return {row: (first, second) for row, first, second in zip(*columns, strict=True)}


def unieval(_: argparse.Namespace) -> None:
    """Compare simple scores with people's, by dimension; the correlations by scipy beside ours."""
    table = read("unieval_human_scores").to_pylist()
    far = 0.0
    for name in sorted({row["set"] for row in table}):
        rows = [row for row in table if row["set"] == name]
        scores = {
            "words": [float(len(row["system_output"].split())) for row in rows],
            "seen": [_seen(row) for row in rows],
        }
        for dimension in json.loads(rows[0]["human_scores"]):
            human = [json.loads(row["human_scores"])[dimension] for row in rows]
            for score, values in scores.items():
                operator = Judge(text="text", rubric="-", human="human", context=Context(step="judge"))
                held = pa.table(
                    {
                        "row_id": [f"{n:05}" for n in range(len(rows))],
                        "judge_score": values,
                        "judge_rating": pa.array([3] * len(rows), pa.int64()),
                        "human": human,
                    }
                )
                found = measured(operator, held)
                expected = {
                    "spearman": stats.spearmanr(values, human).statistic,
                    "kendall": stats.kendalltau(values, human).statistic,
                    "pearson": stats.pearsonr(values, human).statistic,
                }
                far = max(far, *(abs(found[one]["value"] - value) for one, value in expected.items()))
                print(
                    f"{name:13} {dimension:18} {score:6} spearman {shown(found['spearman'])}, kendall "
                    f"{shown(found['kendall'])}, n {found['spearman']['n']}"
                )
    print(f"largest difference from scipy: {far:.1e}")


def _seen(row: Mapping[str, Any]) -> float:
    """Return the share of an output's words that stand in its source or its context."""
    words = row["system_output"].lower().split()
    known = {*str(row["source"]).lower().split(), *str(row["context"]).lower().split()}
    return sum(word in known for word in words) / max(1, len(words))


def preference(_: argparse.Namespace) -> None:
    """Which of four answers to a question people prefer: the rows of a question are of one group."""
    rows = []
    pairs = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    for row in read("qa_feedback_finegrained").to_pylist():
        for (one, other), said in zip(pairs, row["pairwise_preference"] or [], strict=False):
            rows.append(
                {
                    "row_id": f"{row['idx']:04}-{one}{other}",
                    "left": f"prediction_{one}",
                    "right": f"prediction_{other}",
                    "winner": ("tie", "left", "right")[said],
                    "question": str(row["idx"]),
                }
            )
    for group in (None, "question"):
        operator = Preference(left="left", right="right", winner="winner", group=group, k=8.0)
        print(f"{len(rows)} comparisons, group {group}")
        for one in operator(pa.Table.from_pylist(rows)).to_pylist():
            print(f"  {one['metric']:11} {one['slice'] or '':35} {shown(one)} n {one['n']}")


def coverage(_: argparse.Namespace) -> None:
    """How often the 95% intervals of ratings hold the strengths that the games were drawn by."""
    strengths = {"a": 1.2, "b": 0.4, "c": 0.0, "d": -0.5, "e": -1.1}
    mean = float(np.mean(list(strengths.values())))
    for games in (50, 200, 1000):
        hits = trials = missing = 0
        for seed in range(60):
            random = np.random.default_rng(seed)
            rows: list[dict[str, str]] = []
            for number in range(games):
                one, other = (str(name) for name in random.choice(list(strengths), 2, replace=False))
                won = random.random() < 1 / (1 + np.exp(strengths[other] - strengths[one]))
                rows.append({"row_id": f"{number:05}", "l": one, "r": other, "w": "left" if won else "right"})
            operator = Preference(left="l", right="r", winner="w", pairs=0, resamples=200)
            for row in operator(pa.Table.from_pylist(rows)).to_pylist():
                if row["metric"] != "rating":
                    continue
                if row["ci_low"] is None:
                    missing += 1
                    continue
                truth = 1000 + ELO * (strengths[row["slice"].partition("=")[2]] - mean)
                hits += row["ci_low"] <= truth <= row["ci_high"]
                trials += 1
        print(f"{games:5} games of 5 systems: covered {hits / trials:.3f} of {trials}, no interval {missing}")


def speed(_: argparse.Namespace) -> None:
    """Rows asked of a model that answers at once, beside generate.prompt; and measuring many of them."""
    size = 5000
    table = pa.table(
        {"row_id": [f"{n:06}" for n in range(size)], "text": [f"text {n} " * 20 for n in range(size)]}
    )
    table = table.append_column("other", pc.utf8_reverse(table["text"]))
    fake = Context(language=Fake(script=_answer))
    for name, operator, calls in (
        ("generate.prompt", Prompt(template="{{ text }}", writes={"score": "integer"}, context=fake), 1),
        ("judge, rating", Judge(text="text", rubric="x", context=fake), 1),
        ("judge, comparing", Judge(text="text", against="other", rubric="x", context=fake), 2),
    ):
        started = time.perf_counter()
        operator(table)
        took = time.perf_counter() - started
        print(f"{name:17} {size / took:8.0f} rows/s, {calls * size / took:8.0f} calls/s")
    random = np.random.default_rng(1)
    for rows in (10_000, 100_000):
        people = random.integers(1, 6, rows)
        score = np.clip(people + random.normal(0, 1, rows), 1, 5)
        held = pa.table(
            {
                "row_id": [f"{n:07}" for n in range(rows)],
                "judge_score": score,
                "judge_rating": np.round(score).astype(np.int64),
                "human": people,
            }
        )
        for human in (None, "human") if rows <= 10_000 else (None,):
            started = time.perf_counter()
            measured(Judge(text="text", rubric="x", human=human, context=Context(step="judge")), held)
            print(f"measuring {rows} ratings, human: {human}: {time.perf_counter() - started:.1f} s")
        names = np.array([f"system {n}" for n in range(10)])
        left = random.integers(0, 10, rows)
        right = (left + random.integers(1, 10, rows)) % 10
        games = pa.table(
            {
                "row_id": held["row_id"],
                "left": names[left],
                "right": names[right],
                "winner": random.choice(["left", "right", "tie"], rows),
            }
        )
        started = time.perf_counter()
        Preference(left="left", right="right", winner="winner")(games)
        print(f"rating 10 systems by {rows} comparisons: {time.perf_counter() - started:.1f} s")


def _answer(request: Request) -> str:
    asked: Sequence[str] = list((request.schema or {})["properties"])
    return json.dumps({one: {"score": 3, "better": "tie"}[one] for one in asked})


if __name__ == "__main__":
    menu.choose(
        __file__,
        __doc__,
        {
            "llmbar": llmbar,
            "unieval": unieval,
            "preference": preference,
            "coverage": coverage,
            "speed": speed,
        },
    )
