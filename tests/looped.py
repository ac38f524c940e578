"""Recipes with loops, and how tests load them and read their runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.recipe import load

if TYPE_CHECKING:
    import synthray
    from synthray.run import Run

Write = Callable[..., Path]

EXACT = """
name: exact
seed: 3
task: {labels: {a: first, b: second}}
model: {language: fake, answers: [one two three, four five six, seven eight nine, ten eleven twelve,
  alpha beta gamma, delta epsilon zeta, eta theta iota]}
steps:
  - repeat:
      max: 12
      target: 5
      by: label
      steps:
        - source.conditions:
            rows: "SELECT sum(missing) + 2 FROM deficit"
            columns: {label: {sql: "SELECT label, missing AS weight FROM deficit"}}
        - generate.prompt: {template: "Say {{ label }}.", writes: text}
        - derive: {text: "label || ' ' || text"}
        - curate.near_duplicate: {text: text, words: 2, threshold: 0.9, against: [pool]}
        - where: near_duplicate_of IS NULL
          reason: near_duplicate
  - derive: {size: length(text)}
"""

GROWING = """
name: growing
seed: 1
model: {language: fake}
tables: {seeds: seeds.jsonl}
steps:
  - source.table: {table: seeds}
  - repeat:
      max: 3
      steps:
        - source.table: {sql: "SELECT row_id, word || 'x' AS word, size + 1 AS size FROM STARTS", children: true}
        - where: length(word) < 5
          reason: long
  - derive: {done: "true"}
"""

REPLACING = """
name: replacing
seed: 1
model: {language: fake, answers: [a, b, c]}
tables: {seeds: seeds.jsonl}
steps:
  - source.table: {table: seeds}
  - repeat:
      keep: replace
      max: 4
      until: "UNTIL"
      steps:
        - generate.prompt: {template: "{{ word }}", writes: letter}
        - derive: {word: "word || letter", seen: "coalesce(seen, 0) + 1"}
"""

SEEDS = '{"word": "a", "size": 1, "seen": 0}\n{"word": "bb", "size": 2, "seen": 0}\n'


def started(write: Write, text: str, **parts: str) -> synthray.Pipeline:
    write(SEEDS, "seeds.jsonl")
    for name, part in parts.items():
        text = text.replace(name, part)
    return load(write(text))


def column(run: Run, sql: str) -> list[Any]:
    return [row["x"] for row in run.sql(sql).to_pylist()]
