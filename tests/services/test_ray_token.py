"""``--address`` of a Ray that wants a token, as people reach it: nothing but the address is said."""

from __future__ import annotations

import json
from pathlib import Path

from live_services import Live, raylens
from raylens.net.ray_access import MODE, PATH, TOKEN
from raylens.store.standing import PATH as STANDING
from raylens.store.workspace import Workspace
from small_cache import make_cache


def environment(live: Live, home: Path) -> dict[str, str]:
    """Without a word about tokens."""
    kept = {name: value for name, value in live.environment.items() if name not in (MODE, TOKEN, PATH)}
    return {**kept, "HOME": str(home)}


def test_the_token_that_is_kept_at_home_is_sent_and_where_there_is_none_that_is_said(
    live: Live, folder: Path, tmp_path: Path
) -> None:
    make_cache(Workspace.open(folder, create=True))
    at, here = json.loads((live.workspace / STANDING).read_text())["address"], environment(live, tmp_path)

    def said() -> tuple[int, str]:
        done = raylens(folder, ["merge", "--address", at], here, check=False)
        assert done.stdout == ""
        return done.returncode, done.stderr

    hint = f"copy ~/.ray/auth_token from its head node, or set {TOKEN} or {PATH}."
    assert said() == (2, f"error: the Ray cluster at '{at}' wants a token, and there is none here. hint: {hint}\n")
    assert not (tmp_path / ".ray").exists()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(Path(live.environment[PATH]).read_text())
    code, error = said()
    assert (code, "has no finished SAE" in error) == (1, True)  # which is found out once it is connected
