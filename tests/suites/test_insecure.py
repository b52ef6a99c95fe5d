"""Insecure Python: what is found by class, what only looks like it, and that no text is too odd to be read."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.suites.check_insecure import INSECURE_KINDS, insecure_calls
from raylens.suites.python_tokens import lex

INSECURE = [
    ("shell", "subprocess.run(command, shell=True)"),
    ("shell", "subprocess.run(command,\n    shell = True)"),
    ("shell", "os.system('ls ' + name)"),
    ("shell", "import subprocess as sp\nsp.getoutput(line)"),
    ("shell", "from os import popen\npopen(line)"),
    ("shell", "run(**{'shell': True})"),
    ("tls", "requests.get(url, verify=False)"),
    ("tls", "session.verify = False"),
    ("tls", "context = ssl._create_unverified_context()"),
    ("tls", "context.check_hostname = False"),
    ("tls", "context.verify_mode = ssl.CERT_NONE"),
    ("eval", "eval(text)"),
    ("eval", "exec(code, names)"),
    ("pickle", "pickle.loads(data)"),
    ("pickle", "from pickle import (load as read)\nread(stream)"),
    ("pickle", "np.load(path, allow_pickle=True)"),
    ("yaml", "yaml.load(stream)"),
    ("yaml", "yaml.load(stream, Loader=yaml.FullLoader)"),
    ("sql", "cursor.execute('SELECT a FROM b WHERE c = %s' % d)"),
    ("sql", 'cursor.execute(f"SELECT a FROM {table}")'),
    ("sql", "query = 'select a from b where c=' + d"),
    ("sql", "query = 'DELETE FROM t WHERE a = {}'.format(a)"),
    ("sql", "query = ('SELECT a ' 'FROM b '\n    'WHERE c = %s' % c)"),
    ("sql", "db.execute(query % values)"),
    ("sql", "db.execute(start(x) + end)"),
    ("hash", "def store(password):\n    return hashlib.md5(password.encode())"),
    ("hash", "digest = hashlib.new('md5', passwd)"),
    ("tempfile", "name = tempfile.mktemp()"),
    ("permissions", "os.chmod(path, 0o777)"),
    ("permissions", "path.chmod(mode=0o666)"),
    ("permissions", "os.chmod(path, stat.S_IRWXU | stat.S_IRWXO)"),
    ("permissions", "os.umask(0)"),
    ("credentials", "password = 'letmein22'"),
    ("credentials", "connect(user='app', password='letmein22')"),
    ("credentials", "api_key: str = 'abcdef12'"),
    ("archive", "with tarfile.open(path) as archive:\n    archive.extractall(folder)"),
    ("xml", "etree.XMLParser(resolve_entities=True)"),
    ("xml", "parser.setFeature(handler.feature_external_ges, True)"),
]
HARMLESS = [
    "subprocess.run(command, shell=False)",
    "# shell=True",
    "'shell=True, eval(x), os.system(y)'",
    '"""\nos.system(x)\n"""',
    "requests.get(url, verify=True)",
    "ast.literal_eval(text)",
    "model.eval()",
    "def eval(self):\n    pass",
    "re.compile(pattern)",
    "json.loads(data)",
    "yaml.load(stream, Loader=yaml.SafeLoader)",
    "yaml.safe_load(stream)",
    "yaml.load(stream, ",  # a loader may still come
    "cursor.execute('SELECT a FROM b WHERE c = ?', (d,))",
    "cursor.execute('SELECT a FROM b WHERE c = %s', (d % e,))",
    "cursor.execute('SELECT a ' + 'FROM b')",
    "cursor.execute('SELECT a FROM b WHERE c IN (%s)' % ','.join('?' * n), ids)",
    "'Select a file from %s' % folder",
    "hashlib.md5(data)",
    "def check(password):\n    return hashlib.sha256(password)",
    "tempfile.mkstemp()",
    "os.chmod(path, 0o644)",
    "os.umask(0o022)",
    "password = ''",
    "password = getpass('Password: ')",
    "if password == 'letmein22':\n    pass",
    "token = '(' + text",
    "archive.extractall(folder)",
    "import tarfile\narchive.extractall(folder, filter='data')",
]


@pytest.mark.parametrize(("kind", "code"), INSECURE)
def test_each_class_is_found_and_no_other(kind: str, code: str) -> None:
    ast.parse(code)
    found = insecure_calls(code)
    assert {one.kind for one in found} == {kind}
    assert all(one.text == " ".join(code[one.start : one.end].split()) for one in found)


@pytest.mark.parametrize("code", HARMLESS)
def test_what_only_looks_like_it_is_not_found(code: str) -> None:
    assert insecure_calls(code) == ()


def test_every_class_has_an_example() -> None:
    assert {kind for kind, _ in INSECURE} == set(INSECURE_KINDS)


@given(st.data())
def test_text_around_it_changes_nothing(data: st.DataObject) -> None:
    # Each snippet is a whole statement, so a program of several holds what each of them holds.
    harmless = [
        code for code in HARMLESS if code.rstrip()[-1] != "," and "tarfile" not in code and "password" not in code
    ]
    known = [pair for pair in INSECURE if pair[0] not in {"hash", "credentials"}]
    parts = data.draw(st.lists(st.sampled_from(known) | st.sampled_from([("", code) for code in harmless]), max_size=6))
    code = "\n".join(part for _, part in parts) + "\nx = (broken 'and cut off"
    if any(kind == "archive" for kind, _ in parts):
        return  # one tar file makes every extractall suspicious
    assert {one.kind for one in insecure_calls(code)} == {kind for kind, _ in parts} - {""}


@given(st.sampled_from(INSECURE), st.data())
def test_only_what_ends_after_the_start_counts(pair: tuple[str, str], data: st.DataObject) -> None:
    _, code = pair
    start = data.draw(st.integers(0, len(code)))
    assert insecure_calls(code, start) == tuple(one for one in insecure_calls(code) if one.end > start)


PIECES = st.sampled_from(
    ["shell", "=", "True", "(", ")", "eval", "'", '"', '"""', "\\", "\n", "#", "f'{", "}", ".", ",", "%", "+",
     "execute", "SELECT a FROM b", "chmod", "0o7", "777", "yaml", "load", "import ", "from ", "password", " ", "é",
     "\ud800", "\x00", "\r", "\t", "def "]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=60), st.integers(-5, 70))
def test_no_text_is_too_odd(code: str, start: int) -> None:
    assert "".join(token.text for token in lex(code)) == code
    for one in insecure_calls(code, start):
        assert one.kind in INSECURE_KINDS
        assert 0 <= one.start < one.end <= len(code)
        assert one.end > start


@pytest.mark.parametrize(
    "text",
    [
        "x(x(",
        "chmod(",
        "yaml.load(",
        "c.execute(",
        "'",
        '"""',
        "from a import (",
        "\\",
        "f'{",
        "SELECT a FROM 'b ",
        "tar ",
    ],
)
def test_long_runs_are_read_to_the_end(text: str) -> None:
    assert insecure_calls(text * (8000 // len(text))) is not None
