"""The shipped recipes: one readable file for each method, listed by the survey's taxonomy.

A file begins with comments: `# NAME: what it does in one line`, `# node: ...` (its place in the taxonomy of
arXiv 2406.15126, one of NODES) and `# paper: ...`; what follows says what differs, what it costs, what to
change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from synthray.errors import RecipeError, near

SHIPPED = Path(__file__).parent / "recipes"

NODES = (
    "to begin with",
    "generation: conditional prompting",
    "generation: in-context learning",
    "generation: sample-wise decomposition",
    "generation: dataset-wise decomposition",
    "curation: heuristic metrics",
    "curation: sample re-weighting",
    "curation: label enhancement by an auxiliary model",
    "beside the survey",
)
"""The taxonomy's leaves that have recipes, in its order."""


def listed() -> list[dict[str, str]]:
    """Return name, node, paper and one line of what it does, for each recipe, in the taxonomy's order."""
    heads = [_head(path) for path in sorted(SHIPPED.glob("*.yaml"))]
    return sorted(heads, key=lambda head: NODES.index(head["node"]))


def find(recipe: str) -> Path:
    """Return the file of a recipe: a path, or the name of a shipped one."""
    path = Path(recipe)
    if path.is_file():
        return path
    names = [shipped.stem for shipped in SHIPPED.glob("*.yaml")]
    if recipe in names:
        return SHIPPED / f"{recipe}.yaml"
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise RecipeError(f"no file {recipe!r}")
    raise RecipeError(f"no recipe {recipe!r}: neither a file nor a shipped recipe{near(recipe, names)}")


def _head(path: Path) -> dict[str, str]:
    """Return what a recipe's first comments say."""
    said = dict(_comments(path.read_text(encoding="utf-8")))
    return {
        "node": said["node"],
        "recipe": path.stem,
        "what": said[path.stem],
        "paper": said.get("paper", ""),
    }


def _comments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        name, _, rest = line.removeprefix("#").strip().partition(": ")
        yield name, rest
