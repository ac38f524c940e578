"""A document's text is what a reader sees, and its chunks are cuts of just that text."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthray.document import Border, Document, UnreadableDocument, check, chunks, found, read
from synthray.errors import InputError

BORDERS: list[Border] = ["paragraphs", "sentences", "words"]


def pdf(*pages: str, title: str = "") -> bytes:
    """Return a PDF of its own making with a line of text on each page."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    kids = []
    for text in pages:
        shown = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream")
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {len(objects)} 0 R >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(kids)}] >>"
    objects.append(f"<< /Title ({title}) >>")
    out, places = "%PDF-1.4\n", []
    for number, held in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{held}\nendobj\n"
    listed = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{listed}"
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>"
    return f"{out}{end}{trailer}\nstartxref\n{len(out)}\n%%EOF".encode()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def test_markdown_loses_its_markup_and_keeps_its_lines(file: Callable[..., Path]) -> None:
    source = (
        "# Head *one*\n\nA [link](http://x) and `code`,\nsecond line. ![seen](a.png)\n\n- one\n- **two**\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\ndef f():\n  return 1\n```\n\n<div>html <b>block</b></div>\n\nLast.\n"
    )
    held = read(file("a.md", source))
    assert held.title == "Head one"
    assert held.text == (
        "Head one\n\nA link and code,\nsecond line. seen\n\none\ntwo\n\na b\n1 2\n\ndef f():\n  return 1\n\nhtml block\n\nLast."
    )
    assert read(file("b.md", "---\ntitle: 'Front'\n---\n# Head\n")) == Document("Head", "Front")


def test_html_shows_what_a_reader_sees(file: Callable[..., Path]) -> None:
    source = (
        "<html><head><title>My\n page</title><style>x{}</style></head><body><nav>menu</nav><script>bad()</script>"
        "<h1>Hello <b>big</b>\n world</h1><p>One<br>two &amp; three<!-- hidden --></p><ul><li>a<li>b</ul>"
        "<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table><pre>\ndef f():\n    return 1</pre>end"
    )
    held = read(file("a.html", source))
    assert held.title == "My page"
    assert held.text == (
        "Hello big world\n\nOne\ntwo & three\n\na\nb\n\n1 2\n3\n\ndef f():\n    return 1\n\nend"
    )


def test_html_is_decoded_as_it_says_and_markdown_only_as_utf8(file: Callable[..., Path]) -> None:
    said = '<meta charset="windows-1252"><p>caf\u00e9 \u201cx\u201d</p>'
    path = file("a.html", said.encode("cp1252"))
    check(path, 1)
    assert read(path).text == "caf\u00e9 \u201cx\u201d"
    with pytest.raises(InputError, match=r"b\.html is not utf-8 text.*save it as UTF-8"):
        check(file("b.html", "<p>caf\u00e9</p>".encode("cp1252")), 1)
    with pytest.raises(InputError, match=r"c\.md is not UTF-8 text: .* near byte 3; save it as UTF-8"):
        check(file("c.md", "caf\u00e9 x".encode("cp1252")), 1)


def test_plain_text_stays_but_for_line_ends(file: Callable[..., Path]) -> None:
    assert read(file("a.txt", "\ufeffone\r\ntwo\r  three ")).text == "one\ntwo\n  three "


def test_a_pdf_knows_its_pages_and_title(file: Callable[..., Path]) -> None:
    held = read(file("a.pdf", pdf("First page.", "Second page.", title="A title")))
    assert (held.title, held.text) == ("A title", "First page.\n\nSecond page.")
    assert [held.page(held.text.index(word)) for word in ("First", "Second")] == [1, 2]
    assert Document("x").page(0) is None


def test_a_document_that_gives_no_text_says_why_and_the_cure(file: Callable[..., Path]) -> None:
    from pypdf import PdfWriter

    def kind(path: Path, message: str) -> str:
        check(path, 1)
        with pytest.raises(UnreadableDocument, match=message) as caught:
            read(path)
        return caught.value.kind

    locked = PdfWriter(file("open.pdf", pdf("secret")))
    locked.encrypt("password", algorithm="RC4-128")
    locked.write(file("locked.pdf", ""))
    assert (
        kind(file("locked.pdf", (file("x", "").parent / "locked.pdf").read_bytes()), "without a password")
        == "encrypted"
    )
    assert kind(file("scan.pdf", pdf("", "")), "scan.pdf has 2 pages without text.*OCR") == "no_text"
    whole = pdf("First page.", "Second page.")
    assert kind(file("cut.pdf", b"%PDF-1.4\nnothing"), "cut.pdf is no PDF that can be read") == "damaged"
    assert kind(file("empty.pdf", b""), "empty.pdf is no PDF") == "damaged"
    assert kind(file("noise.pdf", bytes(range(256)) * 20), "noise.pdf is no PDF") == "damaged"
    assert kind(file("blank.md", " \n"), "blank.md holds no text") == "no_text"
    assert kind(file("deep.html", "<div>" * 50_000 + "x"), "nested more than") == "too_deep"
    for cut in range(100, len(whole), 97):  # whatever is left of a PDF, it is text or an error that says so
        try:
            read(file("part.pdf", whole[:cut]))
        except UnreadableDocument as error:
            assert error.kind in ("damaged", "no_text")


def test_nothing_in_a_page_is_fetched(file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a document made somebody connect")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    entity = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><p>&e; <img src="http://x/y.png">seen</p>'
    assert "root:" not in read(file("a.html", entity)).text
    assert "seen" in read(file("a.html", entity)).text
    assert read(file("a.md", "![pic](http://x/y.png) seen")).text == "pic seen"


@pytest.mark.parametrize("name", ["a.docx", "b"])
def test_a_file_of_no_known_kind_is_refused(file: Callable[..., Path], name: str) -> None:
    with pytest.raises(InputError, match=r"one of \.txt, .*convert it"):
        check(file(name, "x"), 1)


def test_a_file_that_is_too_large_is_refused(file: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"has 0\.2 MB, more than max_mb: 0\.1; raise it, or split"):
        check(file("a.txt", "x" * 200_000), 0.1)


@pytest.mark.parametrize(("name", "module"), [("a.md", "markdown_it"), ("a.html", "bs4"), ("a.pdf", "pypdf")])
def test_a_missing_library_says_how_to_get_it(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install 'synthray\[documents\]'"):
        check(file(name, "x"), 1)


def test_files_folders_and_globs_are_found_with_their_names(
    file: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("d/b.txt", "d/a.md", "d/sub/c.html", "d/image.png", "d/.hidden/x.txt", "e/f.txt"):
        file(name, "x")
    assert list(found("d", tmp_path).values()) == ["a.md", "b.txt", "sub/c.html"]
    assert list(found("d/*.txt", tmp_path).values()) == ["b.txt"]
    assert list(found(["e", "d/b.txt"], tmp_path).values()) == ["d/b.txt", "e/f.txt"]
    assert list(found(["d/b.txt", "d"], tmp_path)) == list(found("d", tmp_path))
    assert list(found("**/c.html", tmp_path).values()) == ["c.html"]
    file("none/image.png", "x")
    with pytest.raises(InputError, match=r"no document .* there is \.png"):
        found("none", tmp_path)
    with pytest.raises(InputError, match="relative to the recipe's folder"):
        found("nowhere", tmp_path)
    with pytest.raises(InputError, match="names no file"):
        found([], tmp_path)


def text_by_chance(chance: random.Random) -> str:
    pieces = [
        "word",
        "a",
        "sentence.",
        "Why?",
        "\n",
        "\n\n",
        "  ",
        "x" * 70,
        "\u4e2d\u6587\u3002",
        '"Said."',
        "\t",
    ]
    return "".join(
        chance.choice(pieces) + chance.choice(["", " ", " "]) for _ in range(chance.randrange(120))
    )


@pytest.mark.parametrize("by", BORDERS)
def test_chunks_are_cuts_that_lose_nothing(by: Border) -> None:
    chance = random.Random(5)
    for _ in range(300):
        text, size = text_by_chance(chance), chance.randrange(1, 120)
        overlap = chance.randrange(size // 2 + 1)
        places = list(chunks(text, size, overlap, by))
        seen: set[int] = set()
        for start, end in places:
            assert 0 < end - start <= size
            assert text[start:end] == text[start:end].strip()
            seen |= set(range(start, end))
        assert not [place for place, one in enumerate(text) if not one.isspace() and place not in seen]
        for (start, end), (after, further) in itertools.pairwise(places):
            assert start < after and end < further, "chunks go forward"
            assert end - after <= overlap
            assert overlap or after >= end


def test_chunks_end_at_the_coarsest_border_that_there_is() -> None:
    text = "One two. Three four.\n\nFive six seven. Eight nine ten eleven."
    cut = lambda size, by, overlap=0: [text[a:b] for a, b in chunks(text, size, overlap, by)]  # noqa: E731
    assert cut(38, "paragraphs") == ["One two. Three four.", "Five six seven. Eight nine ten eleven."]
    assert cut(40, "sentences") == ["One two. Three four.\n\nFive six seven.", "Eight nine ten eleven."]
    assert cut(44, "words") == ["One two. Three four.\n\nFive six seven. Eight", "nine ten eleven."]
    assert cut(20, "paragraphs") == ["One two. Three four.", "Five six seven.", "Eight nine ten", "eleven."]
    assert cut(40, "sentences", 18)[1] == "Five six seven. Eight nine ten eleven."
    assert [b - a for a, b in chunks("x" * 95, 30, 10, "words")] == [30, 30, 30, 30, 15]
    assert list(chunks(text, 1000, 100, "words")) == [(0, len(text))]
    assert list(chunks(" \n ", 10, 0, "words")) == []
