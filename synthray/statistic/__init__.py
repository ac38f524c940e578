"""Statistics of datasets and of what is measured of them: mathematics alone, without Ray or files."""

from pathlib import Path

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.py")))
"""The sources of this package, for fingerprints."""
