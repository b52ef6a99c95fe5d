"""The catalogue: which SAE was trained on which model, from three sources merged.

The bundle's SAEs, the snapshot of sae-lens's directory, and the user's own file. Where the user lists
an id that the snapshot has, the user's row counts; the bundle's ids cannot be redefined.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

from raylens.bundle import paths as bundle
from raylens.catalog import snapshot as snapshots
from raylens.catalog.aliases import Aliases
from raylens.catalog.entries import CatalogEntry, ReleaseSummary
from raylens.catalog.remote import api_only
from raylens.errors import InputError, UnknownNameError
from raylens.ids import SaeId


class Catalog:
    """All known SAEs; immutable. Rows of the snapshot are made when first asked for."""

    def __init__(
        self,
        bundled: Iterable[CatalogEntry] = (),
        listed: dict[str, Any] | None = None,
        own: Iterable[CatalogEntry] = (),
        aliases: dict[str, str] | None = None,
    ) -> None:
        """Merge the three sources.

        Args:
            bundled: The bundle's rows.
            listed: ``releases`` of a snapshot.
            own: The user's rows.
            aliases: The user's names for models.

        Raises:
            InputError: a row of the user's takes an id of the bundle.
        """
        self._bundled = tuple(bundled)
        self._listed = listed or {}
        self._own = tuple(own)
        reserved = {entry.sae.release for entry in self._bundled} | {bundle.PICO_SAES}
        taken = next((entry.sae for entry in self._own if entry.sae.release in reserved), None)
        if taken is not None:
            raise InputError(f"{taken} is an id of the embedded bundle.", hint="give your SAE another release name.")
        models = [*(e.model for e in self._own), *(release["model"] for release in self._listed.values())]
        self.aliases = Aliases(aliases, models)
        self._releases: dict[str, tuple[CatalogEntry, ...]] = {}

    @classmethod
    def load(
        cls,
        user_file: str | Path | None = None,
        *,
        snapshot: Path = snapshots.PATH,
        bundle_root: Path = bundle.ROOT,
    ) -> Self:
        """Read the bundle, the snapshot and, where named, the user's own file.

        Raises:
            InputError: the user's file is missing or not valid.
            DamagedFileError: the snapshot does not read.
        """
        aliases, own = {}, ()
        if user_file is not None:
            from raylens.catalog.user import read_user_file  # pydantic and yaml, which few need

            aliases, own = read_user_file(user_file)
        listed = snapshots.decode(snapshot.read_bytes(), snapshot)["releases"]
        return cls(bundle_entries(bundle_root), listed, own, aliases)

    @cached_property
    def _by_release(self) -> dict[str, tuple[CatalogEntry, ...]]:
        """Rows of the bundle and the user, a release each."""
        grouped: dict[str, list[CatalogEntry]] = {}
        for entry in (*self._bundled, *self._own):
            grouped.setdefault(entry.sae.release, []).append(entry)
        return {release: tuple(rows) for release, rows in grouped.items()}

    def _rows(self, release: str) -> tuple[CatalogEntry, ...]:
        if release not in self._releases:
            near = self._by_release.get(release, ())
            listed = self._listed.get(release)
            far = snapshots.release_entries(release, listed) if listed else ()
            taken = {entry.sae for entry in near}
            self._releases[release] = (*near, *(entry for entry in far if entry.sae not in taken))
        return self._releases[release]

    @cached_property
    def release_names(self) -> tuple[str, ...]:
        """Every release: the bundle's, the user's, then sae-lens's by name."""
        return tuple(dict.fromkeys([*self._by_release, *sorted(self._listed)]))

    @cached_property
    def entries(self) -> tuple[CatalogEntry, ...]:
        """Every row."""
        return tuple(entry for release in self.release_names for entry in self._rows(release))

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Canonical names of all models that some SAE was trained on, sorted."""
        near = {entry.model for rows in self._by_release.values() for entry in rows}
        return tuple(sorted(near | {release["model"] for release in self._listed.values()}))

    def get(self, sae: SaeId) -> CatalogEntry | None:
        """The row of one id; None where there is none."""
        return next((entry for entry in self._rows(sae.release) if entry.sae == sae), None)

    def entry(self, text: str) -> CatalogEntry:
        """The row that ``text`` names: ``release/id``, or a hub repository (with ``/id`` where it has several).

        Raises:
            UnknownNameError: there is none; says what comes close, or what the release holds.
        """
        release, _, name = text.partition("/")
        if found := next((entry for entry in self._rows(release) if entry.sae.name == name), None):
            return found
        for known in self.release_names:
            repo = self._repo(known)
            if repo is None or not (text == repo or text.startswith(f"{repo}/")):
                continue
            rest = text[len(repo) + 1 :]
            rows = self._rows(known)
            matching = [entry for entry in rows if entry.sae.name == rest] if rest else list(rows)
            if len(matching) == 1:
                return matching[0]
        raise self._unknown_sae(text, release, name)

    def _repo(self, release: str) -> str | None:
        listed = self._listed.get(release)
        return listed["repo"] if listed else next((entry.repo for entry in self._by_release[release]), None)

    def _unknown_sae(self, text: str, release: str, name: str) -> UnknownNameError:
        by_repo = next((known for known in self.release_names if text == self._repo(known)), None)
        rows = self._rows(by_repo or release)
        if rows and (by_repo or not name):
            examples = ", ".join(str(entry.sae) for entry in rows[:3])
            hint = (
                f"write release/id, for example {examples}; raylens catalog --release {by_repo or release} lists all."
            )
            return UnknownNameError(f"{text} is a release of {len(rows)} SAEs, not one SAE.", hint=hint)
        if rows:
            ids = [str(entry.sae) for entry in rows]
            beginning = [sae for sae in ids if sae.startswith(text)]
            return UnknownNameError.among("SAE", text, beginning or ids)
        return UnknownNameError.among("SAE release", release, self.release_names, hint="raylens catalog lists them.")

    def release(self, name: str) -> tuple[CatalogEntry, ...]:
        """The rows of one release, or of all releases kept in one hub repository.

        Raises:
            UnknownNameError: there is no such release.
        """
        if rows := self._rows(name):
            return rows
        rows = tuple(e for known in self.release_names if self._repo(known) == name for e in self._rows(known))
        if not rows:
            raise UnknownNameError.among("SAE release", name, self.release_names)
        return rows

    def trained_on(self, model: str) -> tuple[CatalogEntry, ...]:
        """The SAEs trained on ``model``, by any of its names; empty where there is none."""
        name = self.aliases.canonical(model)
        near = [entry for rows in self._by_release.values() for entry in rows if entry.model == name]
        releases = [release for release in sorted(self._listed) if self._listed[release]["model"] == name]
        far = [e for release in releases for e in self._rows(release) if e.model == name and e.source == "sae-lens"]
        return (*near, *far)

    def related(self, model: str) -> tuple[CatalogEntry, ...]:
        """SAEs trained on other models of its shape and ancestor (A0.04): not for it, unless so ordered."""
        return tuple(entry for other in self.aliases.family(model) for entry in self.trained_on(other))

    def find(self, model: str) -> tuple[CatalogEntry, ...]:
        """The SAEs trained on ``model``; may be empty where only its siblings have some.

        Raises:
            InputError: ``model`` exists only behind an API (A0.06).
            UnknownNameError: neither the model nor a sibling of it is known.
        """
        if found := self.trained_on(model):
            return found
        if remote := api_only(model):
            raise InputError(f"{remote.reason}.", hint=remote.hint)
        if not self.related(model):
            known = {*self.models, *(alias for name in self.models for alias in self.aliases.of(name))}
            hint = "An SAE of your own goes into catalog.yaml."
            raise UnknownNameError.among("model", model, known, hint=hint)
        return ()

    def summaries(self, entries: Iterable[CatalogEntry] | None = None) -> tuple[ReleaseSummary, ...]:
        """One row a release and model, of all rows or of those given, in their order."""
        grouped: dict[tuple[str, str, str], list[CatalogEntry]] = {}
        for entry in self.entries if entries is None else entries:
            grouped.setdefault((entry.sae.release, entry.model, entry.source), []).append(entry)
        return tuple(ReleaseSummary.of(rows) for rows in grouped.values())


@cache
def built_in() -> Catalog:
    """The bundle and the snapshot, read once a process; without any user's file."""
    return Catalog.load()


def bundle_entries(root: Path = bundle.ROOT) -> tuple[CatalogEntry, ...]:
    """The rows of the SAEs that this package carries."""
    return tuple(
        CatalogEntry(
            sae=sae.id,
            model=sae.model,
            hook=sae.hook,
            layer=sae.hook.layer_index,
            width=sae.width,
            source="bundle",
            note="embedded: no download",
            path=str(bundle.sae_path(sae.id, root) or "") or None,
        )
        for sae in bundle.list_saes(root)
    )
