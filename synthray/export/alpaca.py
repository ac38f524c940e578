"""Instructions with their answers in Alpaca's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthray.training import TrainingExport

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.operator import Makes


@dataclass(frozen=True)
class Alpaca(TrainingExport):
    """Write RUN/dataset with a line {"row_id", "instruction", "input", "output"} for each row.

    `instruction`, `input` and `output` are columns, or Jinja templates over them (what has `{{` or `{%`; a
    null is empty there). `input` may be left out and is then empty, as it is where its column is null. The
    first row with an empty instruction or output ends the run and is named. `columns` are written beside.
    Splits, label and several exports: as in export.parquet.
    """

    instruction: str = "instruction"
    input: str | None = None
    output: str = "output"

    def makes(self) -> Makes:
        """Leave the rows as they are."""
        return "nothing"

    def sources(self) -> tuple[str, ...]:
        """Return the settings that are columns or templates."""
        return tuple(one for one in (self.instruction, self.input, self.output) if one)

    def keys(self) -> tuple[str, ...]:
        """Return what a line has."""
        return ("instruction", "input", "output")

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when a column holds no text."""
        super().check(before)
        self.check_text(before, *self.sources())

    def line(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is written of a row."""
        return {
            "instruction": self.filled("instruction", self.instruction, row),
            "input": self.text(self.input, row) if self.input else "",
            "output": self.filled("output", self.output, row),
            **self.beside(row),
        }
