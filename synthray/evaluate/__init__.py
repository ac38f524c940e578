"""Operators that measure the rows."""
