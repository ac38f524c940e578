"""Operators that mark rows; SQL decides on the marks."""
