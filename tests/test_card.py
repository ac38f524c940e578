"""A card shows data as it is; what it says of a run is tested with one."""

from __future__ import annotations

import pytest

from synthray.card import plain, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>", id="HTML"),
        pytest.param("a &lt; b", "a &amp;lt; b", id="entity"),
        pytest.param("*b* _i_ `c`", r"\*b\* \_i\_ \`c\`", id="emphasis"),
        pytest.param("[x](http://y) ![z](w)", r"\[x\](http://y) !\[z\](w)", id="links and images"),
        pytest.param("a | b", r"a \| b", id="table bar"),
        pytest.param("# a\n\n## b", r"\# a \#\# b", id="headings"),
        pytest.param("back\\slash \\*", r"back\\slash \\\*", id="escapes"),
        pytest.param("one\n\r\n two\u2028three", "one two three", id="lines"),
        pytest.param("plain text, (with) some: signs! é", "plain text, (with) some: signs! é", id="plain"),
    ],
)
def test_markup_in_data_is_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_table_shows_each_value_in_a_cell_of_its_own() -> None:
    rows = [{"slice": "label=<b>|x", "value": 0.123456, "n": 12, "low": None}]
    assert table(rows).splitlines() == [
        "| slice | value | n | low |",
        "| --- | --- | --- | --- |",
        r"| label=&lt;b>\|x | 0.1235 | 12 |  |",
    ]
    assert table([]) == "None.\n"
