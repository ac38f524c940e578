"""Operators that call a language model."""
