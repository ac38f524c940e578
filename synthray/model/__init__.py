"""What answers (language models behind one protocol, the calls kept) and what learns (students)."""

from pathlib import Path

STUDENT = Path(__file__).parent / "student.py"
"""The student's source, for fingerprints; importing it would load scikit-learn."""
