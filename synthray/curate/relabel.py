"""Let a model label the rows again, by the task's labels and guideline, with votes, a reason and a trail."""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from annotated_types import Ge, Le

from synthray import asker
from synthray import template as templates
from synthray.asker import Answer, Asker, Question
from synthray.errors import InputError, near
from synthray.label import audit
from synthray.lineage import FAILED, uniform
from synthray.model.answer import Shape
from synthray.model.language import Request
from synthray.operator import Operator
from synthray.query import Query
from synthray.spelling import identifier
from synthray.template import rendered, variables

_VOTES = pa.list_(pa.struct([("prompt", pa.string()), ("label", pa.string())]))
_OWN = frozenset({"task", "demonstrations"})

_WHAT = "{% if task.text %}The text is {{ task.text }}.\n{% endif %}"
_LABELS = (
    "The labels are:\n{% for name, meaning in task.labels.items() %}"
    "- {{ name }}{% if meaning %}: {{ meaning }}{% endif %}\n{% endfor %}"
)
_OPTIONS = (
    "{% for name, meaning in task.labels.items() %}"
    "({{ loop.index }}) {{ name }}{% if meaning %}: {{ meaning }}{% endif %}\n{% endfor %}"
)
_GUIDELINE = "{% if task.guideline %}Guideline: {{ task.guideline }}\n{% endif %}"
_SHOWN = (
    "{% for one in demonstrations %}\nExample text: {{ one.text }}\n"
    "{% if rationale and one.rationale %}Reason: {{ one.rationale }}\n{% endif %}"
    "Label: {{ one.label }}\n{% endfor %}"
)
_TEXT = "\nText: {{ text }}\n\n"
_ANSWER = (
    'Answer with a JSON object: {% if rationale %}in "reason" why, in one short sentence, then {% endif %}'
    'in "label" the label.'
)
_CLAIMED = (
    'Answer with a JSON object: {% if rationale %}in "reason" why, in one short sentence, then {% endif %}'
)


@dataclass(frozen=True)
class _Type:
    """A way to ask.

    `claim` is the key of the verdict on a label that the prompt names, what it may be and what affirms;
    `key` that of the label, or of an option's number.
    """

    template: str
    claim: tuple[str, Any, Any] | None = None
    key: str = "label"


_TYPES = {
    "instruction": _Type(
        "Choose the one label that fits the text best.\n"
        + _WHAT
        + _LABELS
        + _GUIDELINE
        + _SHOWN
        + _TEXT
        + _ANSWER
    ),
    "text_first": _Type(
        _SHOWN
        + _TEXT
        + _WHAT
        + _LABELS
        + _GUIDELINE
        + "Choose the one label that fits the text above best.\n"
        + _ANSWER
    ),
    "question": _Type(
        _WHAT
        + _LABELS
        + _GUIDELINE
        + _SHOWN
        + _TEXT
        + "Question: which of the labels does this text have?\n"
        + _ANSWER
    ),
    "multiple_choice": _Type(
        _WHAT
        + _GUIDELINE
        + _SHOWN
        + _TEXT
        + "Which option describes the text?\n"
        + _OPTIONS
        + _CLAIMED
        + 'in "option" the number of the option.',
        key="option",
    ),
    "true_false": _Type(
        _WHAT
        + _LABELS
        + _GUIDELINE
        + _SHOWN
        + _TEXT
        + "Statement: the label of the text is {{ candidate }}.\nIs the statement true or false?\n"
        + _CLAIMED
        + 'in "statement" true or false, and in "label" the label that the text does have.',
        claim=("statement", "boolean", True),
    ),
    "false_true": _Type(
        _WHAT
        + _LABELS
        + _GUIDELINE
        + _SHOWN
        + _TEXT
        + "Statement: the label of the text is not {{ candidate }}.\nIs the statement true or false?\n"
        + _CLAIMED
        + 'in "statement" true or false, and in "label" the label that the text does have.',
        claim=("statement", "boolean", False),
    ),
    "confirmation": _Type(
        _WHAT
        + _LABELS
        + _GUIDELINE
        + _SHOWN
        + _TEXT
        + "I think that the label of the text is {{ candidate }}. Am I right?\n"
        + _CLAIMED
        + 'in "right" yes or no, and in "label" the label that the text does have.',
        claim=("right", ["yes", "no"], "yes"),
    ),
}


@dataclass(frozen=True)
class Relabel(Operator):
    """Ask the model which of the task's labels a text has, and add what it says; the label stays as it is.

    `prompts` is in how many ways it is asked (CoAnnotating, Li et al. 2023): the instruction first, the text
    first, a question, multiple choice, a statement that is true or false, its denial, an opinion to confirm;
    each `votes` times, which needs a `temperature` above 0 to differ. The last three name a label drawn for
    each row. The old one, in the column `label`, is never shown, so that the answer owes it nothing.
    `rationale` asks for a reason before the label. `demonstrations` names a table with the columns `text`,
    `label` (of their names here) and perhaps `rationale`, of which `shots` rows a label are shown, drawn by
    the seed. An own `template` takes the place of the prompts: Jinja over the row, `task`, `demonstrations`
    (a list with text, label, rationale); it must ask for JSON with "label", and before it "reason" if wanted.

    Adds `new_label`, the label of most votes (of equals the old one, else the first of the task's);
    `label_votes`, each vote's `prompt` and `label` (null: the vote failed and does not count);
    `label_agreement`, the winner's share; `label_entropy`, of the votes in bits, 0 when all agree;
    `rationale`, the first of a vote for the winner; an entry in `label_audit`; and `STEP_call`, the keys of
    the calls. A row of which every vote fails is failed; a row without text is not asked and has nulls.
    Routing is SQL over these: see sql/marks/route.sql. The changed label is
    `derive: {label: "coalesce(new_label, label)"}`.
    """

    uses_model: ClassVar[bool] = True

    text: str
    label: str | None = None
    votes: Annotated[int, Ge(1), Le(100)] = 1
    prompts: Annotated[int, Ge(1), Le(7)] = 1
    rationale: bool = False
    temperature: Annotated[float, Ge(0), Le(5)] = 0.0
    demonstrations: str | None = None
    shots: Annotated[int, Ge(1), Le(100)] = 1
    template: str | None = None
    system: str | None = None
    max_tokens: Annotated[int, Ge(1), Le(1_000_000)] | None = 256
    reasks: Annotated[int, Ge(0), Le(20)] = 2

    @property
    def reads(self) -> tuple[str, ...]:
        """Text, old label and what the templates name."""
        own = [variables(one) - _OWN for one in (self.template, self.system) if one]
        given = {self.text, *([] if self.label is None else [self.label])}
        return tuple(sorted(given.union(*own)))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The table of demonstrations."""
        return () if self.demonstrations is None else (self.demonstrations,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the votes and what they come to."""
        return {
            "new_label": pa.string(),
            "label_votes": _VOTES,
            "label_agreement": pa.float64(),
            "label_entropy": pa.float64(),
            **({"rationale": pa.string()} if self.rationale else {}),
            audit.COLUMN: audit.AUDIT,
            f"{self.step}_call": pa.list_(pa.string()),
        }

    def files(self) -> tuple[Path, ...]:
        """Return the source of what asks and of the trail."""
        return (*asker.SOURCES, audit.SOURCE)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a task without labels, and for settings that cannot work together."""
        self.require_text(before, *[one for one in (self.text, self.label) if one is not None])
        audit.check(before)
        made = {self.final(name) for name in self.adds()}
        for name in (self.text, self.label):
            if name in made:
                raise InputError(f"reads and writes the column {name!r}; give the step a name by `as: NAME`")
        labels = self.context.task.labels
        if len(labels) < 2:
            raise InputError(
                "needs at least two labels to choose from, but the task has "
                f"{', '.join(map(repr, labels)) or 'none'}; add task: {{labels: {{NAME: its meaning, ...}}}}"
            )
        if self.votes > 1 and not self.temperature:
            raise InputError(
                f"votes is {self.votes}, but at temperature 0 all would be the same; set temperature, such "
                "as 0.7, or prompts above 1"
            )
        if self.template is not None and self.prompts > 1:
            raise InputError("an own template takes the place of the prompts; set one of the two")
        templates.check([one for one in (self.template, self.system) if one], before.names)
        self._check_demonstrations()
        for kind in self._types.values():
            self.asker.check(self._request(kind, ({"role": "user", "content": ""},)))

    def _check_demonstrations(self) -> None:
        if self.demonstrations is None:
            return
        schema = self.context.schemas[self.demonstrations]
        for name in (self.text, self.label or "label"):
            if name not in schema.names:
                raise InputError(
                    f"the table {self.demonstrations!r} has no column {name!r}{near(name, schema.names)}"
                )
        self.require_text(schema, self.text, self.label or "label", "rationale")
        if self.demonstrations in self.context.tables:
            _ = self._shown

    def __call__(self, table: pa.Table) -> pa.Table:
        """Ask for every row with text at once."""
        rows = table.to_pylist()
        able = [place for place, row in enumerate(rows) if (row[self.text] or "").strip()]
        answers = self.asker.answers([rows[place] for place in able], self.questions)
        columns: list[dict[str, Any]] = [{} for _ in rows]
        for place, of_row in zip(able, answers, strict=True):
            columns[place] = self._columns(rows[place], of_row)
        added = {name: [one.get(name) for one in columns] for name in self.adds() if name != audit.COLUMN}
        trail = audit.appended(
            table,
            [one.get("new_label") is not None for one in columns],
            step=self.step,
            old=None if self.label is None else table[self.label],
            new=added["new_label"],
            who=self._who(),
            why=[one.get("why") for one in columns],
        )
        failed = pa.array([one.get("failed") for one in columns], FAILED)
        table = self.add(table, {**added, audit.COLUMN: trail})
        return table.append_column(pa.field("failed", FAILED), failed)

    @property
    def asker(self) -> Asker:
        """What asks."""
        return Asker(self.context, self.origin, self.votes * len(self._types), self.reasks)

    def questions(self, row: Mapping[str, Any]) -> list[Question]:
        """Return what a row is asked: each prompt once, then each again, so that more votes repay none."""
        task, shown = self.context.task, self._shown
        system: list[Mapping[str, str]] = []
        if self.system is not None:
            content = rendered(self.system, {**row, "demonstrations": shown}, task)
            system = [{"role": "system", "content": content}]
        asked = []
        for name, kind in self._types.items():
            candidate = self._candidate(row, name)
            given: dict[str, Any] = {"demonstrations": shown}
            if self.template is None:
                given |= {"text": row[self.text], "rationale": self.rationale, "candidate": candidate}
                content = rendered(kind.template, given, task).strip()
            else:
                content = rendered(kind.template, {**row, **given}, task)
            request = self._request(kind, (*system, {"role": "user", "content": content}))
            asked.append(Question(request, functools.partial(self._read, kind, candidate)))
        return asked * self.votes

    @functools.cached_property
    def _types(self) -> Mapping[str, _Type]:
        if self.template is not None:
            return {"template": _Type(self.template)}
        return dict(list(_TYPES.items())[: self.prompts])

    def _candidate(self, row: Mapping[str, Any], name: str) -> str:
        labels = list(self.context.task.labels)
        place = uniform("candidate", self.context.seed, row["row_id"], self.step, name)
        return labels[int(place * len(labels))]

    def _request(self, kind: _Type, messages: tuple[Mapping[str, str], ...]) -> Request:
        return Request(
            messages=messages,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            schema=self._shape(kind).schema,
        )

    def _shape(self, kind: _Type) -> Shape:
        labels = self.context.task.labels
        fitting: Any = list(labels)
        if kind.key == "option":
            fitting = {"type": "integer", "enum": list(range(1, len(labels) + 1))}
        claim = {kind.claim[0]: kind.claim[1]} if kind.claim else {}
        reason = {"reason": "string"} if self.rationale else {}
        return _shape(json.dumps({**reason, **claim, kind.key: fitting}))

    def _read(self, kind: _Type, candidate: str, text: str) -> Mapping[str, Any]:
        """Return label and reason in an answer; ValueError says what is wrong with it."""
        found = self._shape(kind).read(text)
        label = found[kind.key]
        if kind.key == "option":
            label = list(self.context.task.labels)[label - 1]
        if kind.claim:
            key, _, affirmed = kind.claim
            if (found[key] == affirmed) != (label == candidate):
                raise ValueError(f"{key} is {found[key]!r}, which does not go with the label {label!r}")
        return {"label": label, "reason": found.get("reason")}

    def _columns(self, row: Mapping[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
        """Return what a row's votes come to."""
        values = [answer.value for answer in answers if answer.value is not None]
        calls = [answer.call for answer in answers if answer.call is not None]
        if not values:
            return {f"{self.step}_call": calls, "failed": _failed(answers)}
        counts = Counter(value["label"] for value in values)
        most = max(counts.values())
        old = row[self.label] if self.label is not None else None
        order = [old, *self.context.task.labels]
        winner = next(label for label in order if counts.get(label) == most)
        shares = [count / len(values) for count in counts.values()]
        reason = next(value["reason"] for value in values if value["label"] == winner)
        names = list(self._types) * self.votes
        why = f"{most} of {len(answers)} votes"
        if len(values) < len(answers):
            why += f", {len(answers) - len(values)} failed"
        return {
            "new_label": winner,
            "label_votes": [
                {"prompt": name, "label": answer.value["label"] if answer.value else None}
                for name, answer in zip(names, answers, strict=True)
            ],
            "label_agreement": most / len(values),
            "label_entropy": math.fsum(-share * math.log2(share) for share in sorted(shares) if share < 1),
            "rationale": reason,
            f"{self.step}_call": calls,
            "why": f"{why}: {reason}" if reason else why,
        }

    def _who(self) -> str:
        assert self.context.language is not None
        identity = self.context.language.identity()
        return str(identity.get("name") or identity["language"])

    @functools.cached_property
    def _shown(self) -> list[dict[str, str | None]]:
        """Return the demonstrations; InputError when one is of no label of the task."""
        if self.demonstrations is None:
            return []
        table = self.context.tables[self.demonstrations]
        text, label = identifier(self.text), identifier(self.label or "label")
        with Query({self.demonstrations: table}, seed=self.context.seed) as query:
            relation = identifier(self.demonstrations)
            names = query.schema(f"SELECT * FROM {relation}").names
            reason = "rationale" if "rationale" in names else "NULL"
            rows = query.arrow(
                f"SELECT * FROM (SELECT {text} AS text, {label} AS label, {reason}::VARCHAR AS rationale "
                f"FROM {relation}) WHERE text <> '' AND label IS NOT NULL "
                "QUALIFY row_number() OVER (PARTITION BY label "
                f"ORDER BY chance(text, 'demonstration'), text, rationale) <= {self.shots} "
                "ORDER BY chance(text, 'shown'), text, label, rationale"
            ).to_pylist()
        for row in rows:
            if row["label"] not in self.context.task.labels:
                raise InputError(
                    f"the table {self.demonstrations!r} has the label {row['label']!r}, which is none of the "
                    f"task's ({', '.join(self.context.task.labels)}), at the text {row['text'][:60]!r}"
                )
        return list(rows)


@functools.lru_cache(maxsize=64)
def _shape(writes: str) -> Shape:
    return Shape(json.loads(writes))


def _failed(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return why no vote counts, by the first."""
    failures = [answer.failed for answer in answers if answer.failed is not None]
    first = failures[0]
    said = first["message"] if len(answers) == 1 else f"all {len(answers)} votes: {first['message']}"
    attempts = sum(failure["attempts"] for failure in failures)
    return {"error": first["error"], "message": said, "attempts": attempts}
