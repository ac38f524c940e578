"""What the default gates of faithfulness and memorisation see of sound data and of faults; copies at scale.

SYNTHRAY_DATA=DIR uv run python benchmarks/faithfulness.py      # domain, labels, copies, scale
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from menu import choose
from peak import Peak
from real import read

from synthray.evaluate.faithfulness import Faithfulness
from synthray.evaluate.memorisation import Memorisation, tokens
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.table import Table

FLIPPED, COPIED = 0.2, 0.1


def mixed(name: str, text: str = "text", label: str = "label", **where: str) -> pa.Table:
    """Return text and label of rows, in an order by chance."""
    held = read(name, **where)
    held = held.filter(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(held[text])), 0))
    held = held.take(pa.array(np.random.default_rng(1).permutation(len(held))))
    ids = pa.array([f"{name}-{number:06}" for number in range(len(held))])
    return pa.table({"row_id": ids, "text": held[text], "label": held[label].cast(pa.string())})


def faithful(real: pa.Table, rows: pa.Table, label: str | None, sample: int) -> dict[str, float]:
    context = Context(tables={"real": real}, schemas={"real": real.schema})
    made = Faithfulness(text="text", against="real", label=label, sample=sample, context=context)
    found = made(rows).to_pylist()
    return {
        f"{one['metric']}.{field}": one[field]
        for one in found
        if one["slice"] is None
        for field in ("value", "ci_high")
    }


def domain(arguments: argparse.Namespace) -> None:
    """Compare rows with real ones of the domain, made for the domain, and of another one."""
    bank, snips, news = mixed("banking77"), mixed("snips"), mixed("noisy_agnews", label="true_label")
    tweets = mixed("gpt_augmented_sentiment", split="human_test")
    sst = mixed("supergen_sst2_qnli", "text1", task="SST-2", split="real_test")
    question = mixed("supergen_sst2_qnli", "text1", task="QNLI", split="real_test")
    pairs = {
        "real: bank, bank": (bank.slice(0, 8000), bank.slice(8000)),
        "real: news, news": (news.slice(0, 9000), news.slice(9000)),
        "made: tweets, gpt-4": (tweets, mixed("gpt_augmented_sentiment", generator="gpt-4")),
        "made: sst2, supergen": (
            sst,
            mixed("supergen_sst2_qnli", "text1", task="SST-2", split="synthetic_train"),
        ),
        "made: sst2, fewgen": (sst, mixed("fewgen_sst2_mnli_5seeds", "text1", task="SST-2")),
        "made: qnli, supergen": (
            question,
            mixed("supergen_sst2_qnli", "text1", task="QNLI", split="synthetic_train"),
        ),
        "shift: bank, snips": (bank, snips),
        "shift: snips, bank": (snips, bank),
        "shift: news, bank": (news, bank),
        "shift: news, medical": (news, mixed("medical_abstracts_test")),
        "shift: news, sms": (news, mixed("sms_spam")),
    }
    for name, (real, rows) in pairs.items():
        found = faithful(real, rows, None, arguments.sample)
        value, floor = found["word_divergence.value"], found["word_divergence_floor.value"]
        shown = " ".join(
            f"{one} {found[f'{one}.value']:.3f}/{found[f'{one}_floor.value']:.3f}"
            for one in ("mauve_star", "precision", "recall", "coverage", "frechet")
        )
        print(
            f"{name:22} word_divergence {value:.3f}/{floor:.3f} domain_shift "
            f"{found['domain_shift.value']:.3f} (refused from 0.3) "
            f"told {found['two_sample_accuracy.value']:.3f} {shown}"
        )


def labels(arguments: argparse.Namespace) -> None:
    """Judge labels as they are, and with 20 of 100 flipped."""
    tweets = mixed("gpt_augmented_sentiment", split="human_test")
    news = mixed("noisy_agnews", label="true_label", split="clean_test")
    held = {
        "bank": mixed("banking77"),
        "snips": mixed("snips"),
        "news": news,
    }
    pairs = {name: (one.slice(0, len(one) // 2), one.slice(len(one) // 2)) for name, one in held.items()}
    pairs["tweets, gpt-4"] = (tweets, mixed("gpt_augmented_sentiment", generator="gpt-4"))
    pairs["news, crowd's labels"] = (
        news,
        mixed("noisy_agnews", label="given_label", split="noisy_10k"),
    )
    for name, (real, rows) in pairs.items():
        random = np.random.default_rng(2)
        known = sorted(set(rows["label"].to_pylist()))
        wrong = [
            str(random.choice([other for other in known if other != one]))
            if random.random() < FLIPPED
            else one
            for one in rows["label"].to_pylist()
        ]
        for kind, given in (("as they are", rows), ("flipped", rows.set_column(2, "label", pa.array(wrong)))):
            found = faithful(real, given, "label", arguments.sample)
            ceiling = found["reference_accuracy.value"]
            print(
                f"{name:22} {kind:12} label_accuracy {found['label_accuracy.value']:.3f} of {ceiling:.3f}: "
                f"at most {found['label_accuracy.ci_high'] / ceiling:.3f} of it (refused below 0.9)"
            )


def copied(against: pa.Table, rows: pa.Table) -> dict[str, float]:
    context = Context(tables={"test": against}, schemas={"test": against.schema})
    made = Memorisation(text="text", against=["test"], nearest=False, context=context)
    return {one["metric"]: one["value"] for one in made.examined(rows)[1].to_pylist() if one["slice"] is None}


def copies(arguments: argparse.Namespace) -> None:
    """Look for what published training sets and rewritten seeds share with others, and for a tenth copied."""
    for name, train, test in (("banking77", "train", "test"), ("snips", "train", "test")):
        rows, tested = mixed(name, split=train), mixed(name, split=test)
        chosen = np.random.default_rng(3).choice(len(tested), round(COPIED * len(tested)), replace=False)
        spoilt = pa.concat_tables([rows, tested.take(pa.array(chosen))])
        for kind, given in (("train", rows), ("train and a tenth of the test", spoilt)):
            print(f"{name:10} {kind:30} {copied(tested, given)}")
    news, seeds = (
        mixed("noisy_agnews", label="true_label"),
        mixed("gpt_augmented_sentiment", split="human_base"),
    )
    print(f"news, two halves {copied(news.slice(0, 8800), news.slice(8800))}")
    for generator in ("gpt-4", "gpt-3.5-turbo"):
        print(f"seeds, {generator} {copied(seeds, mixed('gpt_augmented_sentiment', generator=generator))}")


def scale(arguments: argparse.Namespace) -> None:
    """Compare many rows with 10,000 texts in a run, beside reading their words once, which is the ceiling."""
    held = mixed("fewgen_sst2_mnli_5seeds", "text1")
    rows, others = held.slice(0, arguments.rows), held.slice(arguments.rows, 10_000)
    started = time.perf_counter()
    for texts in (rows["text"], others["text"]):
        tokens(texts)
    floor = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        for name, table in (("rows", rows), ("test", others)):
            pq.write_table(table, Path(folder) / f"{name}.parquet")
        test = Table((str(Path(folder) / "test.parquet"),), "parquet")
        for nearest in (False, True):
            context = Context(tables={"test": test}, schemas={"test": others.schema})
            made = Memorisation(text="text", against=["test"], nearest=nearest, context=context)
            pipeline = Pipeline(
                [Source(path=str(Path(folder) / "rows.parquet")), made], tables={"test": test}
            )
            with Peak() as peak:
                run = pipeline.run(Path(folder) / f"run-{nearest}", quiet=True)
            seconds = run.sql(
                "SELECT max(seconds) AS seconds FROM stages WHERE folder LIKE '%memorisation%'"
            )["seconds"][0].as_py()
            leaked = run.sql("SELECT value FROM metrics WHERE metric = 'leaked' AND slice IS NULL")["value"][
                0
            ]
            print(
                f"{len(rows):,} rows against {len(others):,}, nearest {nearest}: {seconds:.1f} s, leaked "
                f"{leaked.as_py():.4f}, largest worker {peak.workers / 2**20:.0f} MiB; "
                f"reading the words {floor:.1f} s"
            )


if __name__ == "__main__":
    choose(
        __file__,
        __doc__,
        {"domain": domain, "labels": labels, "copies": copies, "scale": scale},
        sample=1000,
        rows=100_000,
    )
