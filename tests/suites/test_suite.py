"""Suites: what a file may say, what every slip is told, and what a suite is known by."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.chat import Message
from raylens.errors import InputError
from raylens.suites.checks import CHECK_NAMES, INSECURE_KINDS, Check
from raylens.suites.suite import ORIGINAL, Prompt, Suite, Variant
from raylens.suites.suite_file import MAX_BYTES
from raylens.suites.suite_parsing import MAX_PROMPTS, MAX_TEXT, parse_suite

GOOD = """\
# A comment.
- id: read-lines
  text: |
    def read_lines(path):
        return
  tags: [files, short]
  variants:
    - "def read_lines(name):"
    - text: |-
        def lines(path):
      kind: names
    - chat: [{role: user, content: Read lines.}]
      kind: paraphrase
  checks:
    - python_parses
    - no_insecure_call: [shell, eval]
    - {regex: "TODO|FIXME", absent: true}
    - {regex: x, ignore_case: true}
    - max_repetition: 0.25
- id: greet
  chat:
    - {role: system, content: Be brief.}
    - {role: user, content: Say hello.}
"""


def test_a_list_of_prompts_is_a_suite() -> None:  # A2.03
    suite = parse_suite(GOOD, "mine")
    first, second = suite.prompts
    assert (suite.name, suite.n_forms) == ("mine", 5)
    assert (first.id, first.tags) == ("read-lines", ("files", "short"))
    assert first.text == "def read_lines(path):\n    return\n"
    assert first.original.kind == ORIGINAL
    assert [variant.kind for variant in first.variants] == ["variant", "names", "paraphrase"]
    assert [form.text for form in first.forms][1:] == ["def read_lines(name):", "def lines(path):", None]
    assert first.checks == (
        Check("python_parses"),
        Check("no_insecure_call", kinds=("shell", "eval")),
        Check("regex", "TODO|FIXME", absent=True),
        Check("regex", "x", ignore_case=True),
        Check("max_repetition", limit=0.25),
    )
    assert second.text is None
    assert second.chat == (Message("system", "Be brief."), Message("user", "Say hello."))


def test_a_suite_may_name_and_describe_itself() -> None:
    suite = parse_suite("name: own\ndescription: Two words.\nprompts:\n- {id: a, text: x}\n", "file")
    assert (suite.name, suite.description, len(suite.prompts)) == ("own", "Two words.", 1)


PROMPT = "- id: a\n  text: x\n"

WRONG = [
    # file, line, key, what is said
    ("", None, "", "is empty"),
    ("# only a comment\n", None, "", "is empty"),
    ("null\n", None, "", "is empty"),
    ("[]\n", 1, "prompts", "has no prompt"),
    ("prompts: []\n", 1, "prompts", "has no prompt"),
    ("just text\n", 1, "the file", "should be a list of prompts and is the text 'just text'"),
    ("name: a\n", 1, "the file", "has no prompts"),
    ("prompts: [{id: a, text: x}]\nauthor: me\n", 2, "author", "is not a key of a suite"),
    ("name: A B\nprompts: [{id: a, text: x}]\n", 1, "name", "is 'A B'"),
    ("- hello\n", 1, "1", "should be a prompt and is the text 'hello'"),
    ("- text: x\n", 1, "1", "has no id"),
    ("- id: a\n", 1, "1", "has neither text nor chat"),
    (PROMPT + "  txet: y\n", 3, "1.txet", "is not a key of a prompt"),
    (PROMPT + "- id: b\n  text: y\n  variants:\n  - text: z\n    kin: q\n", 7, "2.variants.1.kin", "is not a key"),
    (PROMPT + "  text: y\n", 3, "1.text", "is given twice"),
    (PROMPT + "- id: a\n  text: y\n", 3, "2.id", "'a' is given in line 1 already"),
    (PROMPT + "- id: b\n  text: x\n", 4, "2.text", "says what 'a' says already"),
    (PROMPT + "  variants:\n  - x\n", 4, "1.variants.1", "says what 'a' says already"),
    (PROMPT + "  chat:\n  - {role: user, content: y}\n", 3, "1.chat", "stands beside text"),
    ("- id: Read Lines\n  text: x\n", 1, "1.id", "is 'Read Lines'"),
    ("- id: ../up\n  text: x\n", 1, "1.id", "is '../up'"),
    (f"- id: {'a' * 65}\n  text: x\n", 1, "1.id", "is 'aaaa"),
    ("- id: 12\n  text: x\n", 1, "1.id", "should be text and is the number '12'"),
    ("- id: a\n  text:\n", 2, "1.text", "should be text and is nothing"),
    ("- id: a\n  text: yes\n", 2, "1.text", "should be text and is the truth value 'yes'"),
    ("- id: a\n  text: 2.5\n", 2, "1.text", "should be text and is the number '2.5'"),
    ("- id: a\n  text: [x]\n", 2, "1.text", "should be text and is a list"),
    ("- id: a\n  text: '  '\n", 2, "1.text", "is empty"),
    ('- id: a\n  text: "x\\0y"\n', 2, "1.text", "U+0000"),
    ('- id: a\n  text: "x\\uD800y"\n', 2, "", ""),
    ("- id: a\n  text: |\n    " + "x" * (MAX_TEXT + 1) + "\n", 2, "1.text", "has 20,002 characters"),
    (PROMPT + "  tags: files\n", 3, "1.tags", "should be a list of tags and is the text 'files'"),
    (PROMPT + "  tags: []\n", 3, "1.tags", "is an empty list"),
    (PROMPT + "  tags: [a, b, a]\n", 3, "1.tags.3", "is given twice"),
    (PROMPT + "  tags: [a, 1]\n", 3, "1.tags.2", "should be text"),
    (PROMPT + "  variants: {text: y}\n", 3, "1.variants", "should be a list of variants and is a mapping"),
    (PROMPT + "  variants:\n  - [y]\n", 4, "1.variants.1", "should be a variant and is a list"),
    (PROMPT + "  variants:\n  - kind: q\n", 4, "1.variants.1", "has neither text nor chat"),
    (PROMPT + "  variants: [" + ", ".join(f"v{i}" for i in range(101)) + "]\n", 3, "1.variants", "has 101 variants"),
    ("- id: a\n  chat: hello\n", 2, "1.chat", "should be a list of turns"),
    ("- id: a\n  chat:\n  - {role: user}\n", 3, "1.chat.1", "has no content"),
    ("- id: a\n  chat:\n  - {role: robot, content: x}\n", 3, "1.chat.1.role", "is no role: 'robot'"),
    ("- id: a\n  chat:\n  - {role: user, content: x, name: y}\n", 3, "1.chat.1.name", "is not a key of a turn"),
    ("- id: a\n  chat:\n  - {role: assistant, content: x}\n", 3, "1.chat", "ends with a turn that is not the user's"),
    (
        "- id: a\n  chat:\n  - {role: user, content: x}\n  - {role: system, content: y}\n",
        4, "1.chat.2.role", "is a system turn after another",
    ),
    (PROMPT + "  checks: [parses]\n", 3, "1.checks.1", "'parses' is no check"),
    (PROMPT + "  checks: [regex]\n", 3, "1.checks.1", "names no pattern"),
    (PROMPT + "  checks: [[x]]\n", 3, "1.checks.1", "is no check"),
    (PROMPT + "  checks:\n  - exec: print(1)\n", 4, "1.checks.1.exec", "'exec' is no check"),
    (PROMPT + "  checks:\n  - regex: '('\n", 4, "1.checks.1.regex", "cannot be read: missing )"),
    (PROMPT + "  checks:\n  - regex: '(?=x)'\n", 4, "1.checks.1.regex", "cannot be read"),
    (PROMPT + f"  checks:\n  - regex: {'x' * 501}\n", 4, "1.checks.1.regex", "is longer than 500 characters"),
    (PROMPT + "  checks:\n  - regex: x\n    absent: maybe\n", 5, "1.checks.1.absent", "should be true or false"),
    (PROMPT + "  checks:\n  - regex: x\n    flags: i\n", 5, "1.checks.1.flags", "is not a key of the check regex"),
    (PROMPT + "  checks:\n  - max_repetition: 2\n", 4, "1.checks.1.max_repetition", "should be a number from 0 to 1"),
    (PROMPT + "  checks:\n  - max_repetition: .nan\n", 4, "1.checks.1.max_repetition", "should be a number from 0"),
    (PROMPT + "  checks:\n  - no_insecure_call: [shel]\n", 4, "1.checks.1.no_insecure_call.1", "'shel' is no class"),
    (PROMPT + "  checks:\n  - python_parses: true\n", 4, "1.checks.1.python_parses", "takes no argument"),
    (PROMPT + "  checks: [non_empty, non_empty]\n", 3, "1.checks.2", "is given twice"),
    # YAML that is refused whatever it says
    ("- id: a\n  text: 'x\n", 3, "", "this is no YAML"),
    ("- id: a\n\ttext: x\n", 2, "", "this is no YAML"),
    ("- {id: a, text: x\n", 2, "", "this is no YAML"),
    (PROMPT + "---\n" + PROMPT, 3, "the file", "goes on with a second document"),
    ("- id: a\n  text: !!python/object/apply:os.system [x]\n", 2, "1.text", "has the tag"),
    ("- id: a\n  text: !!str 5\n", 2, "1.text", "has the tag"),
    ("- &one\n  id: a\n  text: x\n", 1, "1", "has an anchor (&one)"),
    ("- id: a\n  text: *one\n", 2, "1.text", "is an alias (*one)"),
    ("- 1: a\n", 1, "1.1", "is a key that is the number '1'"),
    ("- ? [a]\n  : b\n", 1, "1.a key", "is a key that is a list"),
    ("- <<: {id: a}\n", 1, "1.<<", "is a key that is the merge '<<'"),
    ("[" * 40, 1, "1.1.1.1.1.1.1.1", "is nested more than 8 deep"),
    ("- id: a\n  text: x\x07\n", 2, "", "U+0007"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key", "what"), WRONG)
def test_a_slip_is_one_sentence_with_file_line_and_key(
    text: str, line: int | None, key: str, what: str
) -> None:  # A2.03
    with pytest.raises(InputError) as caught:
        parse_suite(text, "suite", "dir/mine.yaml")
    message = caught.value.message
    assert message.startswith("dir/mine.yaml" if line is None else f"dir/mine.yaml, line {line}: {key}"), message
    assert what in message
    assert message.endswith(".")
    assert "\n" not in message
    assert caught.value.hint.endswith((".", "?"))


def test_an_unknown_key_gets_the_nearest_known_one() -> None:
    with pytest.raises(InputError) as caught:
        parse_suite("- id: a\n  text: x\n  chekcs: [non_empty]\n", "mine")
    assert caught.value.hint.startswith("did you mean checks?")


def test_bytes_that_are_no_text_and_files_beyond_all_bounds() -> None:
    with pytest.raises(InputError, match="line 2: this is not UTF-8"):
        parse_suite(b"- id: a\n  text: \xff\n", "mine")
    with pytest.raises(InputError, match="is larger than 1 MiB"):
        parse_suite(b"#" * (MAX_BYTES + 1), "mine")
    many = "".join(f"- {{id: p{i}, text: t{i}}}\n" for i in range(MAX_PROMPTS + 1))
    with pytest.raises(InputError, match="has 10,001 prompts"):
        parse_suite(many, "mine")


def test_a_thousandfold_expansion_is_not_even_begun() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
    )
    with pytest.raises(InputError, match="line 1: a has an anchor"):
        parse_suite(bomb, "mine")


def test_windows_files_and_byte_order_marks_are_read() -> None:
    assert parse_suite(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode(), "mine").digest == (
        parse_suite(GOOD, "mine").digest
    )


slugs = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True).filter(
    lambda s: not s.replace(".", "").replace("-", "").replace("_", "").isdigit()
)
texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), include_characters="\n\t\r"), min_size=1, max_size=60
).filter(str.strip) | st.sampled_from(
    ["yes", "1", "null", "~", "- x", "a: b", "#", " lead", "trail \n", "\n\nx", "'", '"']
)
turns = st.builds(Message, st.sampled_from(["user", "assistant"]), texts)
chats = st.builds(lambda before, last: (*before, Message("user", last)), st.lists(turns, max_size=2), texts)
saids = st.builds(lambda text: (text, None), texts) | st.builds(lambda chat: (None, chat), chats)
checks = st.one_of(
    st.sampled_from([name for name in CHECK_NAMES if name != "regex"]).map(Check),
    st.builds(Check, st.just("regex"), st.sampled_from(["a+", "^x$", "(?i)b"]), st.booleans(), st.booleans()),
    st.builds(lambda share: Check("max_repetition", limit=share), st.floats(0, 1)),
    st.lists(st.sampled_from(INSECURE_KINDS), unique=True).map(lambda k: Check("no_insecure_call", kinds=tuple(k))),
)


@st.composite
def suites(draw: st.DrawFn) -> Suite:
    said = draw(st.lists(saids, min_size=1, max_size=6, unique=True))
    ids = draw(st.lists(slugs, min_size=len(said), max_size=len(said), unique=True))
    prompts: list[Prompt] = []
    for name, (text, chat) in zip(ids, said, strict=True):
        if prompts and draw(st.booleans()):
            last = prompts.pop()
            more = Variant(text, chat, draw(slugs))
            prompts.append(dataclasses.replace(last, variants=(*last.variants, more)))
            continue
        tags = tuple(draw(st.lists(slugs, max_size=2, unique=True)))
        asked = tuple(draw(st.lists(checks, max_size=3, unique=True)))
        prompts.append(Prompt(name, Variant(text, chat, ORIGINAL), (), tags, asked))
    return Suite("mine", tuple(prompts), draw(st.sampled_from(["", "Some words."])))


def told(data: bytes) -> str:
    """What is said of a file that is none; where it is a suite, what would be."""
    try:
        parse_suite(data, "mine")
    except InputError as error:
        return error.message
    return "mine, line 0"


@given(suites())
def test_what_is_written_is_read_again(suite: Suite) -> None:
    assert parse_suite(suite.to_yaml(), "mine") == suite


@given(
    st.binary(max_size=80) | st.text(st.sampled_from("- :[]{},&*!|>'\"#%@`?idtext\n ax1"), max_size=60).map(str.encode)
)
def test_no_file_does_more_than_be_refused(data: bytes) -> None:
    assert told(data).startswith("mine")


@given(
    st.integers(0, len(GOOD)), st.sampled_from(["", "-", ": ", "\n", "  ", "[", "'", "id", "&a "]), st.integers(0, 5)
)
def test_a_good_file_with_a_slip_is_read_or_told(at: int, more: str, gone: int) -> None:
    assert told((GOOD[:at] + more + GOOD[at + gone :]).encode()).startswith("mine, line ")


def test_a_digest_is_of_what_determines_results() -> None:
    suite = parse_suite(GOOD, "mine")
    first, second = suite.prompts

    def of(*prompts: Prompt) -> tuple[str, str]:
        other = Suite("other", prompts, "Described.")
        return other.digest, other.inputs_digest

    same = (suite.digest, suite.inputs_digest)
    assert of(first, second) == same
    assert of(dataclasses.replace(first, tags=("else",)), second) == same
    assert len(suite.digest) == 64
    unchecked = of(dataclasses.replace(first, checks=()), second)
    assert unchecked[0] != suite.digest
    assert unchecked[1] == suite.inputs_digest
    for prompts in (
        (second, first),
        (first,),
        (dataclasses.replace(first, id="else"), second),
        (dataclasses.replace(first, original=Variant("else")), second),
        (dataclasses.replace(first, variants=first.variants[:-1]), second),
    ):
        assert of(*prompts)[0] != suite.digest
        assert of(*prompts)[1] != suite.inputs_digest


def test_a_prompt_is_text_or_chat() -> None:
    with pytest.raises(InputError, match="either text or chat"):
        Variant()
    with pytest.raises(InputError, match="either text or chat"):
        Variant("x", (Message("user", "x"),))
