"""What answers (language models behind one protocol, the calls kept) and what learns (students)."""
