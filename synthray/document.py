"""A document: the text of a file (plain, Markdown, HTML, PDF), and the chunks that it is cut into."""

from __future__ import annotations

import bisect
import codecs
import glob
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from synthray.errors import InputError, SourceError, SynthrayError

if TYPE_CHECKING:
    from bs4.element import Tag

Border = Literal["paragraphs", "sentences", "words"]
"""Where a chunk may best end."""

KINDS = {
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
}
"""What a file holds, by its suffix."""

SOURCE = Path(__file__)
"""For the fingerprint of what reads documents."""

_LIBRARIES = {
    "markdown": ("markdown_it", "markdown-it-py"),
    "html": ("bs4", "beautifulsoup4"),
    "pdf": ("pypdf", "pypdf"),
}
_UNSEEN = {"script", "style", "nav", "noscript", "template", "svg", "iframe", "object", "head"}
_BLOCKS = [
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr",
    "main", "ol", "p", "pre", "section", "table", "ul",
]  # fmt: skip
_OPENING = dict.fromkeys(_BLOCKS, "\n\n") | dict.fromkeys(("br", "li", "tr", "option", "summary"), "\n")
_CLOSING = dict.fromkeys(_BLOCKS, "\n\n") | dict.fromkeys(("td", "th"), " ")
"""What stands before and after a tag's text."""
_AFTER = dict.fromkeys(("td_close", "th_close"), " ") | {"tr_close": "\n"}
_AFTER |= dict.fromkeys(
    ("bullet_list_close", "ordered_list_close", "table_close", "blockquote_close"), "\n\n"
)
"""What stands after a part of Markdown that ends."""
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)")
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
_DEEPEST = 2000
_FULL_STOPS = "\u3002\uff01\uff1f"
_BORDERS = {
    "paragraphs": re.compile(r"\n[ \t]*\n\s*"),
    "sentences": re.compile(rf"(?<=[.!?])[\"')\]\u201d\u2019]*\s+|\n+|(?<=[{_FULL_STOPS}])"),
    "words": re.compile(r"\s+"),
}
_INDENT = "\ue000"
"""Stands for a blank that is kept, in preformatted text."""
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*$\n?", re.MULTILINE | re.DOTALL)


class UnreadableDocument(SynthrayError):
    """A document that gives no text: `kind` says why in a word, the message with the cure."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Document:
    """The text of a document, its title where it has one, and where its pages start (PDF alone has any)."""

    text: str
    title: str | None = None
    pages: tuple[int, ...] = ()

    def page(self, place: int) -> int | None:
        """Return the number, from 1, of the page in which the character at `place` stands."""
        return bisect.bisect_right(self.pages, place) if self.pages else None


def check(path: Path, max_mb: float) -> None:
    """Raise an InputError for a file that cannot be read, whatever it holds: by kind, size, or encoding."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise SourceError(
            f"{path}: a document is one of {', '.join(KINDS)}, but this is "
            f"{path.suffix or 'without suffix'}; convert it, or name other files"
        )
    if kind in _LIBRARIES:
        module, package = _LIBRARIES[kind]
        try:
            importlib.import_module(module)
        except ImportError:
            raise InputError(
                f"{path}: reading {kind} needs {package}: pip install 'synthray[documents]'"
            ) from None
    size = path.stat().st_size
    if size > max_mb * 2**20:
        raise SourceError(
            f"{path} has {size / 2**20:.1f} MB, more than max_mb: {max_mb:g}; raise it, or split the file"
        )
    if kind in ("text", "markdown"):
        _check_utf8(path)
    elif kind == "html":
        _html_text(path)


def read(path: Path) -> Document:
    """Return the document in a file that passes `check`; UnreadableDocument when it gives no text.

    Text is as it stands, with line ends as newlines. Markdown loses its markup and front matter; headings
    are lines. HTML loses what is not shown, and navigation. A PDF is read page by page; it is not OCRed.
    Nothing in a file is fetched or run.
    """
    readers = {"text": _text, "markdown": _markdown, "html": _html, "pdf": _pdf}
    document = readers[KINDS[path.suffix.lower()]](path)
    if not document.text.strip():
        raise UnreadableDocument("no_text", f"{path.name} holds no text")
    return document


def chunks(text: str, size: int, overlap: int, by: Border) -> Iterator[tuple[int, int]]:
    """Yield where the chunks of a text start and end: at most `size` characters, all of the text.

    A chunk is as long as it may be, and ends at the last border of the kind `by` in its second half, else at
    one of the next finer kind, else where it is full. It starts with at most `overlap` characters of the one
    before, from the first sentence in them, else the first word. None is empty or has white space around it.
    """
    kinds = list(_BORDERS)[list(_BORDERS).index(by) :]
    start, done = _skipped(text, 0), 0
    while start < len(text):
        whole = start + size >= len(text)
        stop = len(text) if whole else _stop(text, kinds, max(start + size // 2, done), start + size)
        end = start + len(text[start:stop].rstrip())
        if end > done:
            yield start, end
        done = max(done, end)
        following = _skipped(text, stop)
        if following >= len(text):
            return
        start = _skipped(text, _resumed(text, stop, overlap) if overlap else following)


def _stop(text: str, kinds: Sequence[str], least: int, full: int) -> int:
    """Return the last border after `least` and not after `full`, of the first kind that has one there."""
    for kind in kinds:
        places = [
            found.start() + len(found[0].rstrip())
            for found in _BORDERS[kind].finditer(text, least, full + len("\n \n"))
        ]
        inside = [place for place in places if least < place <= full]
        if inside:
            return inside[-1]
    return full


def _resumed(text: str, stop: int, overlap: int) -> int:
    """Return where the chunk after `stop` starts, at most `overlap` characters before it."""
    first = stop - overlap
    for kind in ("sentences", "words"):
        for found in _BORDERS[kind].finditer(text, first - 1, stop):
            if first <= found.end() < stop:
                return found.end()
    return first


def _skipped(text: str, place: int) -> int:
    """Return the first place from `place` on that is no white space."""
    while place < len(text) and text[place].isspace():
        place += 1
    return place


# The kinds.


def _text(path: Path) -> Document:
    return Document(_lines(path.read_bytes().decode("utf-8-sig")))


def _markdown(path: Path) -> Document:
    from markdown_it import MarkdownIt

    text = _lines(path.read_bytes().decode("utf-8-sig"))
    title = None
    front = _FRONT.match(text)
    if front:
        text = text[front.end() :]
        named = re.search(r"^title:[ \t]*(\S.*)$", front[1], re.MULTILINE)
        title = named[1].strip().strip("\"'") if named else None
    parts: list[str] = []
    inside = cell = 0
    is_title = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.nesting:
            kind = token.type.rpartition("_")[0]
            inside += token.nesting * (kind in ("list_item", "blockquote"))
            cell += token.nesting * (kind in ("td", "th"))
            is_title = token.type == "heading_open" and token.tag == "h1" and not title
        content = _content(token)
        if is_title:
            title = content or None
        if content.strip():
            parts += [content.rstrip("\n"), "" if cell else "\n" if inside else "\n\n"]
        parts.append(_AFTER.get(token.type, ""))
    return Document(_tidy("".join(parts)), title)


def _content(token: Any) -> str:
    if token.type == "inline":
        return _inline(token)
    return _shown(token.content)[0] if token.type == "html_block" else str(token.content)


def _inline(token: Any) -> str:
    parts = []
    for child in token.children or []:
        if child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif child.type != "html_inline":
            parts.append(child.content)
    return "".join(parts)


def _html(path: Path) -> Document:
    return Document(*_shown(_html_text(path)))


def _shown(source: str) -> tuple[str, str | None]:
    """Return the text of HTML that a reader sees, and its title."""
    from bs4 import BeautifulSoup

    if _depth(source) > _DEEPEST:
        raise UnreadableDocument("too_deep", f"its tags are nested more than {_DEEPEST} deep")
    soup = BeautifulSoup(source, "html.parser")
    named = soup.find("title") or soup.find("h1")
    title = " ".join(named.get_text().split()) if named else ""
    lines = [re.sub("[ \t\r\f\v]+", " ", line).strip(" ") for line in "".join(_seen(soup)).split("\n")]
    return _tidy("\n".join(lines).replace(_INDENT, " ")), title or None


def _depth(source: str) -> int:
    """Return how deep tags are nested: the library takes the square of that in time."""
    opened: dict[str, int] = {}
    depth = most = 0
    for closes, tag in _TAG.findall(source):
        name = tag.lower()
        if not closes and name not in _VOID:
            opened[name] = opened.get(name, 0) + 1
            depth += 1
            most = max(most, depth)
        elif opened.get(name):
            opened[name] -= 1
            depth -= 1
    return most


def _seen(soup: Tag) -> Iterator[str]:
    """Yield what is seen of a page, with newlines where its blocks and lines end; without recursion."""
    from bs4.element import NavigableString, Tag

    entered = [(soup.name, iter(soup.contents))]
    preformatted = 0
    while entered:
        name, children = entered[-1]
        child = next(children, None)
        if child is None:
            entered.pop()
            preformatted -= name == "pre"
            yield _CLOSING.get(name, "")
        elif isinstance(child, Tag):
            if child.name not in _UNSEEN:
                entered.append((child.name, iter(child.contents)))
                preformatted += child.name == "pre"
                yield _OPENING.get(child.name, "")
        elif type(child) is NavigableString:  # and no comment
            kept = child.replace(" ", _INDENT).replace("\t", _INDENT * 4)
            yield kept if preformatted else re.sub(r"\s+", " ", child)


def _pdf(path: Path) -> Document:
    import logging

    import pypdf
    from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    parts: list[str] = []
    pages, length = [], 0
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise WrongPasswordError("it has a password")
        for page in reader.pages:
            pages.append(length)
            parts.append(_tidy(_clean(page.extract_text())) + "\n\n")
            length += len(parts[-1])
        named = reader.metadata.title if reader.metadata else None
    except (DependencyError, FileNotDecryptedError) as error:
        raise UnreadableDocument(
            "encrypted", f"{path.name} is encrypted ({error}); save it without a password, and name that file"
        ) from None
    except Exception as error:  # what a damaged file makes of the library cannot be foreseen
        raise UnreadableDocument(
            "damaged",
            f"{path.name} is no PDF that can be read ({type(error).__name__}: {error}); save it anew",
        ) from None
    text = "".join(parts)
    if not text.strip():
        raise UnreadableDocument(
            "no_text",
            f"{path.name} has {len(pages)} pages without text, such as scans; make text of it by OCR",
        )
    title = _clean(str(named)).strip() if named else ""
    return Document(text.rstrip(), title or None, tuple(pages))


# Text.


def _check_utf8(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        place = 0
        try:
            while block := file.read(2**20):
                decoder.decode(block)
                place += len(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{path} is not UTF-8 text: {error.reason} near byte {place + error.start}; save it as UTF-8"
            ) from None


def _html_text(path: Path) -> str:
    """Return HTML decoded as it says itself, else as UTF-8."""
    from bs4.dammit import EncodingDetector

    source = path.read_bytes()
    bare, marked = EncodingDetector.strip_byte_order_mark(source)
    encoding = marked or EncodingDetector.find_declared_encoding(bare, is_html=True) or "utf-8"
    try:
        return _clean(bare.decode(encoding))
    except (UnicodeDecodeError, LookupError) as error:
        raise SourceError(f"{path} is not {encoding} text ({error}); save it as UTF-8") from None


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _clean(text: str) -> str:
    """Return a text with newlines as line ends and without what is no character."""
    return _lines(text).encode("utf-8", "replace").decode().replace("\x00", "")


def _tidy(text: str) -> str:
    """Return a text without white space at the ends of its lines, and with one empty line in a row."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip("\n")


def found(where: str | Sequence[str], base: Path) -> dict[Path, str]:
    """Return the documents at `where` (files, folders with all below them, globs), each with its name.

    A name is the path below the folder that holds them all. Files that are named must be documents; of a
    folder or glob only the documents count, and nothing hidden. InputError when a place has none.
    """
    patterns = [where] if isinstance(where, str) else list(where)
    listed: dict[Path, None] = {}
    for pattern in patterns:
        listed |= dict.fromkeys(_matching(pattern, base))
    if not listed:
        raise SourceError("path names no file; name files, folders or globs, relative to the recipe's folder")
    folders = [path.parent.parts for path in listed]
    shared = 0
    while all(len(parts) > shared and parts[shared] == folders[0][shared] for parts in folders):
        shared += 1
    named = {path: "/".join(path.parts[shared:]) for path in listed}
    return dict(sorted(named.items(), key=lambda item: (item[1], str(item[0]))))


def _matching(pattern: str, base: Path) -> list[Path]:
    path = base / Path(pattern).expanduser()
    if path.is_file():
        return [path.resolve()]
    if path.is_dir():
        below = [one for one in sorted(path.rglob("*")) if not _is_hidden(one.relative_to(path))]
    else:
        below = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    files = [one.resolve() for one in below if one.is_file()]
    found = [one for one in files if one.suffix.lower() in KINDS]
    if not found:
        others = sorted({one.suffix or one.name for one in files})
        there = (
            f"; there is {', '.join(others[:5])}" if others else "; a path is relative to the recipe's folder"
        )
        raise SourceError(f"no document ({', '.join(KINDS)}) at {str(path)!r}{there}")
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
