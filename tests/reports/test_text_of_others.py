"""Text that models, suites and label sources wrote stays text, in Markdown and in HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from strategies import HOSTILE, texts

from raylens.reports.markdown import code, fence, plain, table
from raylens.reports.markup import element
from raylens.reports.text_marks import marked
from raylens.reports.visible import one_line, visible

_MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def inline(markdown: str) -> list[Token]:
    """What is in the one paragraph that there is."""
    tokens = _MARKDOWN.parse(markdown)
    assert [one.type for one in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    return tokens[1].children or []


def test_what_has_no_shape_is_given_one() -> None:
    assert visible("a\x1b[2J\x00\x7f") == "a␛[2J␀␡"
    assert visible("x\u200by\u202e\ufeff\x9b") == "x⟨U+200B⟩y⟨U+202E⟩⟨U+FEFF⟩⟨U+009B⟩"
    assert visible("tab\tline\n\r\n é 漢 🙂") == "tab\tline\n␍\n é 漢 🙂"
    assert visible("\ud800 \U000e0041") == "⟨U+D800⟩ ⟨U+E0041⟩"
    assert one_line("  a b\n\tc ") == "␣␣a b↵⇥c␣"
    assert one_line("   ") == "␣␣␣"


@given(st.text())
def test_nothing_unprintable_is_left(text: str) -> None:
    for one in visible(text):
        assert one in "\n\t" or not re.match("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", one)
    assert visible(visible(text)) == visible(text)


@given(texts())
@example("```")
@example("`" * 50)
def test_a_fence_holds_its_text(text: str) -> None:
    tokens = _MARKDOWN.parse(f"before\n\n{fence(text)}\n\nafter")
    assert [one.type for one in tokens if one.level == 0 and one.nesting >= 0] == [
        "paragraph_open",
        "fence",
        "paragraph_open",
    ]
    assert tokens[3].content == visible(text) + "\n"


@given(texts())
@example("`")
@example(" `` ")
@example("\\")
def test_a_code_span_holds_its_text(text: str) -> None:
    tokens = inline(f"x {code(text)} y")
    if not text:
        assert code(text) == "*empty*"
        return
    assert [one.type for one in tokens] == ["text", "code_inline", "text"]
    assert tokens[1].content == one_line(text)


@given(texts())
@example("a_b_c __init__ _x_")
@example("www.a.b http://a.b ftp://x")
def test_plain_text_has_no_structure(text: str) -> None:
    tokens = inline(f"x {plain(text)} y")
    assert {one.type for one in tokens} <= {"text", "text_special"}
    assert "".join(one.content for one in tokens) == f"x {one_line(text)} y"
    heading = _MARKDOWN.parse(f"# {plain(text)} end")
    assert [one.type for one in heading] == ["heading_open", "inline", "heading_close"]


@given(st.lists(st.tuples(texts(), texts()), min_size=1, max_size=3))
@example([("a\\", "|b")])
@example([("a\\|b", "\\\\|")])
def test_a_cell_holds_its_text(rows: list[tuple[str, str]]) -> None:
    tokens = _MARKDOWN.parse(table(["left", "right:"], [[plain(a), plain(b)] for a, b in rows]))
    cells = [
        "".join(child.content for child in tokens[i + 1].children or [])
        for i, one in enumerate(tokens)
        if one.type == "td_open"
    ]
    assert [one.strip() for one in cells] == [one_line(text).strip() for row in rows for text in row]
    kinds = {child.type for one in tokens for child in one.children or []}
    assert kinds <= {"text", "text_special"}


class Texts(HTMLParser):
    """Collects text and tags."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@given(texts(), texts())
def test_an_element_holds_its_text(text: str, title: str) -> None:
    parser = Texts()
    parser.feed(element("p", text, None, ["a", element("b", text)], title=title, lang=None, hidden=""))
    parser.close()
    assert parser.tags == ["p", "b"]
    assert parser.text == f"{visible(text)}a{visible(text)}"
    if title:
        assert parser.attributes == [("title", visible(title)), ("hidden", None)]


@given(texts(), texts())
@example("a b", "a  b")
@example("x" * 5000 + "!", "x" * 5000 + "?")
@example("a " * 900, "b " * 900)
def test_marks_leave_both_texts_as_they_are(before: str, after: str) -> None:
    for text, part, mark in zip((before, after), marked(before, after), ("del", "ins"), strict=True):
        parser = Texts()
        parser.feed(part)
        parser.close()
        assert set(parser.tags) <= {mark}
        plain_again = parser.text.replace("↵\n", "\n").replace("⇥\t", "\t").replace("·", " ")
        assert plain_again == visible(text).replace("↵\n", "\n").replace("⇥\t", "\t").replace("·", " ")
    if before == after:
        assert not any("<" in part for part in marked(before, after))
    elif visible(before) != visible(after):
        assert any("<" in part for part in marked(before, after))


def test_marks_are_around_what_differs() -> None:
    before, after = marked("return reply.text", "return eval(reply.text)")
    assert before == "return reply.text"
    assert after == "return <ins>eval(</ins>reply.text<ins>)</ins>"
    assert marked("a\n", "a") == ("a<del>↵\n</del>", "a")


def test_the_hostile_list_is_hostile() -> None:
    """It holds what each of the writers has to withstand."""
    whole = "".join(HOSTILE)
    assert all(piece in whole for piece in ("<script", "```", "](", "\x1b", "\u202e", "|", "onerror", "</style>"))
