"""Operators that make rows: condition tables and files."""
