"""The page of a run: what stands in it, that nothing in it runs, and how a browser shows it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import chromium
import pyarrow as pa
import pytest
import reported

from synthray.chart import NO_WIDTH
from synthray.errors import InputError, RunError
from synthray.recipe import load
from synthray.report import page as report
from synthray.run import FORMAT, Run

needs_chromium = pytest.mark.skipif(chromium.PATH is None, reason=chromium.MISSING)
POINT = """
    (() => {  // points at the map until it tells a text
      const canvas = document.querySelector("#figure-map canvas"), tip = document.getElementById("tip");
      canvas.scrollIntoView();
      const box = canvas.getBoundingClientRect();
      for (let y = box.top + 40; y < box.bottom; y += 4) for (let x = box.left; x < box.right; x += 4) {
        canvas.dispatchEvent(new PointerEvent("pointermove", {clientX: x, clientY: y, bubbles: true}));
        if (tip.style.display === "block") return tip.textContent;
      }
    })()
"""
HOSTILE_ASK = {
    "drawn": "document.documentElement.dataset.drawn",
    "broken": "document.documentElement.dataset.broken",
    "figures": "Object.keys(JSON.parse(document.getElementById('figures').textContent)).length",
    "tip": POINT,
    "pwned": "document.documentElement.dataset.pwned",
    "strangers": "document.querySelectorAll('img, iframe, object, embed, link, base, svg[onload]').length",
}
WIDE = {"wide": "document.documentElement.scrollWidth"}
LOOK_ASK = {
    "shown": "document.querySelectorAll('details.history:not([hidden])').length",
    "second": """(() => { const pick = document.getElementById("pick"); pick.value = "1";
        pick.dispatchEvent(new Event("change"));
        return [...document.querySelectorAll("details.history")].map((one) => !one.hidden && one.open); })()""",
    "ink": """(() => { const canvas = document.querySelector("#figure-funnel canvas");
        const held = canvas.getContext("2d").getImageData(0, 40, 80, canvas.height - 80).data;
        let light = 0, dark = 0;
        for (let at = 0; at < held.length; at += 4) if (held[at + 3] > 200) held[at] > 150 ? light++ : dark++;
        return light > dark ? "light" : "dark"; })()""",
}
SCRIPTLESS_ASK = {
    "tables": "document.querySelectorAll('section > .wide table').length",
    "hidden": "[...document.querySelectorAll('section > .wide table')].filter((one) => !one.offsetHeight).length",
    "rows": "[...document.querySelectorAll('details.history > summary')].filter((one) => !one.offsetHeight).length",
    "said": "document.querySelector('noscript').innerText",
}
EVERYTHING = {
    *("gate", "funnel", "metrics", "reasons", "failures", "labels", "lengths", "coverage", "map"),
    *("duplicates", "issues", "lineage", "cost", "recipe"),
}


class Page(HTMLParser):
    """A page as a parser sees it: its elements with their attributes, its scripts, its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style"):
            self.raw.append((self.elements[-1][0], data))
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.elements.append(("end", {}))

    @property
    def sections(self) -> set[str]:
        return {held["id"].removeprefix("section-") for tag, held in self.elements if tag == "section"}

    def figures(self) -> dict[str, Any]:
        found = [data for tag, data in self.raw if tag == "script" and data.startswith("{")]
        return json.loads(found[0]) if found else {}

    def values(self, name: str) -> list[dict[str, Any]]:
        figure = self.figures()[name]
        return figure["datasets"][figure["data"]["name"]]


def page(run: Run, **settings: Any) -> Page:
    return Page(report.html(run, **settings))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reported.run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Run:
    state = {"error": f"failed{reported.HOSTILE}", "state": f"done{reported.HOSTILE}"}
    return reported.run(tmp_path_factory.mktemp("hostile") / "run<b>'&", mark=reported.HOSTILE, **state)


@pytest.fixture(scope="module")
def written(run: Run) -> Path:
    return report.write(run.root)


@pytest.fixture(scope="module")
def told(written: Path) -> Page:
    return Page(written.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hostile_page(hostile: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(hostile.root, tmp_path_factory.mktemp("out") / "<b>report.html")


@pytest.fixture(scope="module")
def seen(written: Path, hostile_page: Path) -> dict[str, chromium.Seen]:
    """What a browser saw of the pages, in one sitting."""
    visits = {
        "hostile": (hostile_page, {"ask": HOSTILE_ASK}),
        "phone": (hostile_page, {"ask": WIDE, "width": 390}),
        "desktop": (hostile_page, {"ask": WIDE, "width": 1280}),
        "light": (written, {"ask": LOOK_ASK}),
        "dark": (written, {"ask": LOOK_ASK, "dark": True}),
        "scriptless": (written, {"ask": SCRIPTLESS_ASK, "scripts": False}),
    }

    async def sitting() -> dict[str, chromium.Seen]:
        async with chromium.browser() as address:
            return {name: await chromium.visit(address, path, **how) for name, (path, how) in visits.items()}

    return asyncio.run(sitting())


# What stands in it.


def test_a_run_with_all_evidence_has_every_section_and_its_numbers(told: Page) -> None:
    found = told
    assert found.sections == EVERYTHING
    text = re.sub(r"\s+", " ", found.text)
    for said in (
        *("news done", "rows made40", "rows kept", "US dollars0.25", "seed7", "Gate: passed"),
        "utility.accuracy.ci_low > 0.4",
        *("length (where_length), 3 rows", "TimeoutError", "no answer", "1,234", "0.6"),
        *("2 near duplicates", "similarity 0.900", "All 38 texts", "hashed n-grams"),
        *("About river, please.", "Rejected", "In the dataset"),
    ):
        assert said in text, said
    drawn = {held["id"] for tag, held in found.elements if held.get("id", "").startswith("figure-")}
    assert drawn == {f"figure-{name}" for name in found.figures()}
    assert len(drawn) >= 9


def test_the_same_run_has_the_same_page(run: Run, written: Path) -> None:
    assert report.html(Run.read(run.root)) == written.read_text(encoding="utf-8")


def test_the_gate_tells_what_was_required_and_what_was_measured(tmp_path: Path) -> None:
    refused = [{"condition": "a.b.value > 1", "passed": False, "found": "a.b.value = 0.5"}]
    rows = [{"text": "one"}]
    text = page(reported.bare(tmp_path / "a", rows, gate=refused, state="refused")).text
    assert "Gate: refused" in text and "a.b.value = 0.5" in text
    assert "not whole" not in text
    undecided = reported.bare(
        tmp_path / "b", rows, recipe={"gate": ["x.y.value > 2"]}, state="failed", error="oh"
    )
    text = page(undecided).text
    assert "Gate: not decided" in text and "x.y.value > 2" in text
    assert "oh" in text and "not whole" in text
    assert "Gate: none" in page(reported.bare(tmp_path / "c", rows)).text


def test_a_named_row_is_told_and_others_are_not(run: Run) -> None:
    found = page(run, rows=["row009"])
    told = [held["data-says"] for tag, held in found.elements if "data-says" in held]
    assert told == ["rejected: row009"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_rows_of_a_loop_are_made_once(tmp_path: Path) -> None:
    recipe = tmp_path / "loop.yaml"
    recipe.write_text(
        "name: loop\nsteps:\n  - repeat:\n      max: 3\n      target: 5\n"
        "      steps: [{source.conditions: {rows: 2, columns: {text: {range: [1, 9]}}}}]\n"
    )
    found = page(load(recipe).run(tmp_path / "run", quiet=True)).text
    assert "rows made6" in found


# What is missing.


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_have_the_sections_that_are_defined_for_them(tmp_path: Path, rows: int) -> None:
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    made = reported.bare(tmp_path / "run", [{"text": "one", "label": "a"}] * rows, schema=schema)
    sections = page(made).sections
    assert {"gate", "funnel", "cost", "recipe"} <= sections
    assert ("labels" in sections) == ("lengths" in sections) == ("lineage" in sections) == bool(rows)
    assert "map" not in sections


def test_without_text_and_label_the_page_says_what_it_leaves_out(tmp_path: Path) -> None:
    found = page(reported.bare(tmp_path / "run", [{"question": "one"}, {"question": "two"}]))
    assert not found.sections & {"labels", "lengths", "map", "duplicates"}
    assert "no column 'text'" in found.text and "no column 'label'" in found.text
    named = page(reported.bare(tmp_path / "two", [{"question": f"q {n}"} for n in range(5)]), text="question")
    assert {"lengths", "map"} <= named.sections


def test_a_text_column_of_numbers_is_said_and_left_out(tmp_path: Path) -> None:
    run = reported.bare(tmp_path / "run", [{"text": 1}, {"text": 2}])
    assert "holds int64" in page(run).text
    with pytest.raises(InputError, match="must hold text, but is int64"):
        report.html(run, text="text")


def test_texts_that_are_all_equal_are_a_map_of_one_place(tmp_path: Path) -> None:
    made = reported.bare(tmp_path / "run", [{"text": "the same", "label": None}] * 30)
    values = page(made).values("map")
    assert {(one["x"], one["y"], one["label"]) for one in values} == {(0, 0, "(none)")}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rows": ["row00"]}, "no row 'row00' in .*near ones are row000"),
        ({"text": "texts"}, "no column 'texts'; did you mean 'text'"),
        ({"label": "lable"}, "no column 'lable'; did you mean 'label'"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(run: Run, settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        report.html(run, **settings)


def test_a_page_is_refused_where_no_run_or_no_place_is(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        report.write(tmp_path)
    with pytest.raises(InputError, match="is a folder; --out names a file"):
        report.write(run.root, tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        report.write(run.root, tmp_path / "no" / "report.html")
    unfinished = Run.claim(tmp_path / "new", "news")
    unfinished.save(format=FORMAT, name="news", stages=[])
    unfinished.release()
    with pytest.raises(RunError, match="no finished stage yet"):
        report.write(unfinished.root)
    assert not (tmp_path / "new" / "report.html").exists()


# Nothing of the data runs.


def test_hostile_data_make_no_element_and_no_attribute(told: Page, hostile_page: Path) -> None:
    text = hostile_page.read_text(encoding="utf-8")
    found, plain = Page(text), told
    assert {tag for tag, _ in found.elements} == {tag for tag, _ in plain.elements}
    names = {name for _, held in found.elements for name in held}
    assert names == {name for _, held in plain.elements for name in held}
    assert not [name for name in names if name.startswith("on")]
    assert [tag for tag, _ in found.raw].count("script") == 3
    assert not re.search(r"</script><script>document|<img|<svg", text.replace(report._library(), ""))
    assert reported.HOSTILE in found.text, "it is shown as what it is"
    assert reported.HOSTILE[:30] in found.values("map")[0]["text"]


def test_the_policy_names_each_script_and_style_and_allows_nothing_else(told: Page) -> None:
    found = told
    policy = next(held["content"] for tag, held in found.elements if held.get("http-equiv"))
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    runs = [(tag, data) for tag, data in found.raw if not data.startswith("{")]
    for tag, data in runs:
        digest = base64.b64encode(hashlib.sha256(data.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules[f"{tag}-src"].split(), tag
    assert len(rules["script-src"].split()) + len(rules["style-src"].split()) == len(runs) == 3
    outside = [
        held
        for _, held in found.elements
        if re.match(r"[a-z]+:|//", held.get("src", "") + held.get("href", ""))
    ]
    assert not outside


@needs_chromium
def test_in_a_browser_hostile_data_run_nothing_and_ask_for_nothing(
    seen: dict[str, chromium.Seen], hostile_page: Path
) -> None:
    held = seen["hostile"]
    assert held.values["broken"] is None
    assert int(held.values["drawn"]) == held.values["figures"] >= 9
    assert "<img src=x" in held.values["tip"], "the text is shown as text"
    assert held.values["pwned"] is None
    assert held.values["strangers"] == 0
    assert (held.dialogs, held.said) == ([], [])
    assert held.requests == [hostile_page.as_uri()]


NAMES = ("__proto__", "constructor", "toString", "hasOwnProperty", "plain")
ODD_ASK = {
    "broken": "document.documentElement.dataset.broken",
    "drawn": "Number(document.documentElement.dataset.drawn)",
    "figures": "Object.keys(JSON.parse(document.getElementById('figures').textContent)).length",
    "said": "document.querySelector('#figure-labels').textContent",
}


@needs_chromium
def test_names_of_javascript_are_labels_like_others_and_a_broken_figure_is_told(tmp_path: Path) -> None:
    rows = [
        {"text": f"text {number} about {name}", "label": name, "tone": NAMES[(at + number) % 5]}
        for at, name in enumerate(NAMES)
        for number in range(12)
    ]
    made = reported.bare(tmp_path / "run", rows)
    good = report.write(made.root)
    # What the page would be without `chart.safe`: Vega breaks on it while it draws, and only logs so.
    bad = tmp_path / "bad.html"
    bad.write_text(good.read_text(encoding="utf-8").replace(NO_WIDTH, ""), encoding="utf-8")

    async def sitting() -> list[chromium.Seen]:
        async with chromium.browser() as address:
            return [await chromium.visit(address, path, ask=ODD_ASK) for path in (good, bad)]

    whole, broken = asyncio.run(sitting())
    assert whole.values["broken"] is None
    assert whole.values["drawn"] == whole.values["figures"] >= 4
    assert (whole.values["said"], whole.said) == ("", [])
    assert broken.values["said"].startswith("This figure cannot be drawn: ")
    assert broken.values["broken"]


def test_a_refused_gate_is_told_once_and_long_names_may_break(tmp_path: Path) -> None:
    refused = [{"condition": "a.b_c.value > 1", "passed": False, "found": "a.b_c.value = 0.5"}]
    run = reported.bare(
        tmp_path / "a", [{"text": "one"}], gate=refused, state="refused", error="refused: all"
    )
    text = report.html(run)
    assert "refused: all" not in text
    assert "a.<wbr>b_<wbr>c.<wbr>value &gt; 1" in text


# How a browser shows it.


@needs_chromium
def test_no_width_makes_the_page_scroll_sideways(seen: dict[str, chromium.Seen]) -> None:
    assert [seen[name].values["wide"] for name in ("phone", "desktop")] == [390, 1280]


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_follow_the_colours_and_one_row_is_told_at_a_time(
    seen: dict[str, chromium.Seen], scheme: str
) -> None:
    held = seen[scheme].values
    assert held["ink"] == {"light": "dark", "dark": "light"}[scheme]
    assert held["shown"] == 1
    assert [place for place, is_open in enumerate(held["second"]) if is_open] == [1]


@needs_chromium
def test_without_scripts_all_tables_and_rows_can_be_read(seen: dict[str, chromium.Seen]) -> None:
    held = seen["scriptless"].values
    assert (held["tables"], held["hidden"], held["rows"]) == (15, 0, 0)
    assert "Figures need JavaScript" in held["said"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(scheme: str) -> None:
    style = report.TEMPLATE.read_text(encoding="utf-8")
    found = re.findall(r":root \{([^}]*)\}", style)[scheme == "dark"]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", found))

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return sum(one * weight for one, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    for ground in ("page", "card", "wash"):
        for ink in ("ink", "soft", "accent", "good", "bad", "warn"):
            high, low = sorted((light(colours[ground]), light(colours[ink])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, ink, ground)
