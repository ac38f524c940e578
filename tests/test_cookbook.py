"""The shipped recipes: each says what it is, where it stands, from which paper, and what it costs."""

from __future__ import annotations

import pytest

from synthray import cookbook
from synthray.errors import RecipeError

SAYS = ("differs from the paper", "costs", "your own task")


def test_a_recipe_is_found_by_name_or_path() -> None:
    path = cookbook.find("quickstart")
    assert path.name == "quickstart.yaml"
    assert cookbook.find(str(path)) == path
    with pytest.raises(RecipeError, match=r"no recipe 'quikstart'.*did you mean 'quickstart'"):
        cookbook.find("quikstart")
    with pytest.raises(RecipeError, match=r"no file 'no/such.yaml'"):
        cookbook.find("no/such.yaml")


def test_recipes_are_listed_in_the_order_of_the_taxonomy() -> None:
    listed = cookbook.listed()
    assert listed[0]["recipe"] == "quickstart"
    places = [cookbook.NODES.index(one["node"]) for one in listed]
    assert places == sorted(places)


@pytest.mark.parametrize("head", cookbook.listed(), ids=lambda head: head["recipe"])
def test_every_recipe_says_what_it_is(head: dict[str, str]) -> None:
    assert 20 < len(head["what"]) < 120
    text = cookbook.find(head["recipe"]).read_text(encoding="utf-8")
    comments = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    if head["recipe"] != "quickstart":
        assert "arXiv" in head["paper"] or head["recipe"] == "cleanlab_denoise"
        for said in SAYS:
            assert said in comments.lower(), f"{head['recipe']} does not say what {said}"
