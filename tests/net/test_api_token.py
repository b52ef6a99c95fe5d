"""The token of the services: found, made once, and read by its owner alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raylens.errors import InputError
from raylens.net.api_token import FILE_VARIABLE, VARIABLE, find_or_make_token, find_token, token_file

LONG = "a-token-of-more-than-sixteen-characters"


def test_the_variable_comes_first(tmp_path: Path) -> None:
    environment = {VARIABLE: LONG, FILE_VARIABLE: str(tmp_path / "token")}
    assert find_token(environment) == LONG
    assert find_or_make_token(environment) == (LONG, False)
    assert not (tmp_path / "token").exists()


def test_one_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find_token(environment) is None
    made, is_new = find_or_make_token(environment)
    assert is_new
    assert len(made) >= 32
    path = token_file(environment)
    assert path == tmp_path / "raylens" / "api-token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert find_or_make_token(environment) == (made, False)
    assert [one.name for one in path.parent.iterdir()] == ["api-token"]  # no draft is left


def test_of_many_who_start_at_once_all_get_the_same(tmp_path: Path) -> None:
    code = "from raylens.net.api_token import find_or_make_token as f; print(*f())"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], env={"XDG_CONFIG_HOME": str(tmp_path)}, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = [one.communicate(timeout=60)[0].split() for one in started]
    assert len({token for token, _ in said}) == 1
    assert [new for _, new in said].count("True") == 1


def test_what_others_may_read_or_guess_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(LONG)
    path.chmod(0o644)
    with pytest.raises(InputError, match="others may read"):
        find_token({FILE_VARIABLE: str(path)})
    path.chmod(0o600)
    assert find_token({FILE_VARIABLE: str(path)}) == LONG
    for bad in ("tiny-one", "with a space in the middle of it", "ümläut-ümläut-ümläut"):
        with pytest.raises(InputError) as refused:
            find_token({VARIABLE: bad})
        assert bad not in str(refused.value)
    with pytest.raises(InputError, match="cannot be written"):
        find_or_make_token({FILE_VARIABLE: "/proc/nowhere/token"})
    with pytest.raises(InputError, match="cannot be read"):
        find_token({FILE_VARIABLE: str(tmp_path)})
