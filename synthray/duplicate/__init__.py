"""What finds texts that are nearly the same: shingles, signatures, pairs, and the choice of what is kept."""

from pathlib import Path

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.py")))
"""The files that decide what is found: a step's fingerprint holds their content."""
