import json

import pytest

from synthray.chart import NO_WIDTH, bars, coloured, data, ordered, safe


@pytest.mark.parametrize(
    "name", ["__proto__", "constructor", "toString", "__defineGetter__", "hasOwnProperty"]
)
def test_a_name_that_every_object_has_gets_a_character_without_width(name: str) -> None:
    assert safe(name) == NO_WIDTH + name
    assert len({safe(one) for one in (name, NO_WIDTH + name, NO_WIDTH * 2 + name)}) == 3, "none become one"


@pytest.mark.parametrize("value", ["proto", "__proto__ is", "", "Constructor", 3, None, 0.5, True, NO_WIDTH])
def test_other_values_are_left_as_they_are(value: object) -> None:
    assert safe(value) is value


def test_axes_and_colours_name_values_as_the_data_do() -> None:
    rows = [{"label": "__proto__", "what": "toString", "rows": 2}, {"label": "b", "what": "kept", "rows": 1}]
    held = data(rows).to_dict()["values"]
    axis, colour = ordered("y", "label", ["__proto__", "b"], None), coloured("what", {"toString": "#000"})
    assert [row["label"] for row in held] == axis.to_dict()["scale"]["domain"]
    assert [held[0]["what"]] == colour.to_dict()["scale"]["domain"]
    chart = bars(rows, "label", ["__proto__", "b"], "rows", "what", {"toString": "#000", "kept": "#111"})
    drawn = chart.to_dict()
    text = json.dumps(drawn, ensure_ascii=False)
    assert "__proto__" not in text.replace(NO_WIDTH + "__proto__", "")
    assert drawn["encoding"]["x"]["axis"]["tickMinStep"] == 1, "there is no half row"
