"""Pictures of every page, light and dark: ``python -m raylens_app.web.screenshots --workspace PATH``.

The workspace is one that ``raylens demo`` made; the app is started on it, and Debian's Chromium looks at it.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from raylens.errors import RunError
from raylens.store.selection import Readable
from raylens_app.web.desk import Desk, open_desk
from raylens_app.web.settings import AppSettings

if TYPE_CHECKING:
    from PIL import Image
    from playwright.sync_api import Browser

_PROMPT: Final = "import os\n\ndef read(path):\n    return"
_QUERY: Final = (
    "SELECT sae, floor(log10(density)) AS power_of_ten, count(*) AS features\n"
    "FROM feature_stats WHERE density > 0\nGROUP BY ALL ORDER BY ALL"
)
_SIZE: Final = (1280, 860)
_COLOURS: Final = 255
_LARGEST: Final = 150_000
"""Bytes of a picture."""
_STARTS_S: Final = 60.0
_DRAWN_MS: Final = 4000
"""For charts, which are drawn after the page has settled."""


def main() -> int:
    """Take the pictures of the command line; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", default="./raylens-data", help="one that raylens demo made")
    parser.add_argument("--out", type=Path, default=Path("docs/screenshots"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pages = addresses(open_desk(AppSettings(given.workspace)))
    with _app(given.workspace) as url, _browser() as browser:
        for scheme in ("light", "dark"):
            for name, path in pages.items():
                picture = given.out / f"{name}-{scheme}.png"
                picture.write_bytes(_small(_taken(browser, f"{url}/{path}", scheme)))
                sys.stderr.write(f"{picture} {picture.stat().st_size // 1000} KB\n")
    return 0


def addresses(desk: Desk) -> dict[str, str]:
    """What is looked at, by the name of its picture: every page, on the feature whose explanation is best.

    Whoever adds a page adds a line.
    """
    from raylens.ids import FeatureId
    from raylens.labels.feature_list import Wanted

    chosen = desk.features.chosen(None, None)
    [row], _ = desk.features.page(chosen, Wanted(sort="score"), 1, 0)
    one = chosen[row["sae"]]
    sae, feature = str(one.sae), str(FeatureId(one.sae, row["feature"]))

    def about(**params: str) -> str:
        return f"feature?{urlencode({'id': feature, 'cache': one.cache_id, **params})}"

    found = {
        "home": "",
        "features": f"features?{urlencode({'sae': sae, 'sort': 'score'})}",
        "features-search": f"features?{urlencode({'q': 'import statements'})}",
        "features-scatter": "features?view=scatter",
        "features-map": f"features?{urlencode({'view': 'map', 'sae': sae})}",
        "feature-windows": about(),
        "feature-explanations": about(part="explanations"),
        "feature-logits": about(part="activations and logits"),
        "feature-related": about(part="related features"),
        "feature-causes": about(part="causes"),
        "compare": f"compare?{urlencode({'features': _pair(one, row['feature'])})}",
        "score-card": "score_card",
        "audits": "audits",
        **_audit(desk),
        "traces": "traces",
        "trace": f"traces?{urlencode(_read_span(desk))}",
        "sql": f"sql?{urlencode({'sql': _QUERY, 'drawn': 'chart', 'x': 'power_of_ten', 'y': 'features', 'by': 'sae'})}",
    }
    if desk.services.health().ready:
        found["workbench"] = (
            f"workbench?{urlencode({'session': _session(desk, feature), 'prompt': _PROMPT, 'top': '10'})}"
        )
    else:
        sys.stderr.write("no services are up, so there is no picture of the Workbench\n")
    return found


def _pair(one: Readable, feature: int) -> str:
    """A feature and the next one."""
    from raylens.ids import FeatureId

    return ",".join(str(FeatureId(one.sae, at % one.d_sae)) for at in (feature, feature + 1))


def _audit(desk: Desk) -> dict[str, str]:
    """The first finished audit, if there is one."""
    from raylens.store.audit_store import AuditStore

    finished = [run for run in AuditStore(desk.workspace.files).runs() if run.status == "finished"]
    if not finished:
        sys.stderr.write("no audit is finished, so there is no picture of one\n")
        return {}
    run = str(finished[0].place)
    shown = {"audit": "verdict", "audit-features": "features", "audit-outputs": "outputs"}
    return {name: f"audit?{urlencode({'run': run, 'show': part})}" for name, part in shown.items()}


def _read_span(desk: Desk) -> dict[str, str]:
    """A span of which features were read; the list of traces where there is none."""
    from raylens.store.views import connect

    with connect(desk.workspace, only=["sae_feature_activations"]) as connection:
        rows = connection.execute("SELECT min(span_id) FROM sae_feature_activations").fetchall()
    return {"span": rows[0][0], "tab": "SAE"} if rows[0][0] is not None else {}


def _session(desk: Desk, feature: str) -> str:
    """A session of the services with a patch of a feature."""
    with desk.services.client() as client:
        bench = client.workbench()
        bench.load_model()
        bench.patch(feature=feature, strength=2.0)
        return bench.session or ""


def _taken(browser: Browser, url: str, scheme: str) -> bytes:
    width, height = _SIZE
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
    )
    try:
        page = context.new_page()
        page.goto(url)
        page.get_by_role("heading", level=1).first.wait_for()
        page.wait_for_function("() => !document.querySelector('[data-testid=\"stStatusWidget\"]')")
        page.wait_for_timeout(_DRAWN_MS)
        return page.screenshot()
    finally:
        context.close()


def _small(picture: bytes) -> bytes:
    """The picture as it is; of a palette only where that is too large, for a palette loses rare colours."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as full:
        colours = full.convert("RGB")
    packed = _packed(colours)
    return packed if len(packed) <= _LARGEST else _packed(colours.quantize(_COLOURS, dither=Image.Dither.NONE))


def _packed(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


@contextmanager
def _browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise RunError("there is no Chromium here to take pictures with.", hint="make browser installs it.")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--no-first-run"])
        try:
            yield found
        finally:
            found.close()


@contextmanager
def _app(workspace: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "raylens", "--workspace", workspace, "app", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _STARTS_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RunError("the app did not start.", hint="its output says why.") from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_STARTS_S)


if __name__ == "__main__":
    sys.exit(main())
