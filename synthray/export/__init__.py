"""Operators that write the dataset for others to use."""
