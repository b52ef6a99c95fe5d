"""From what a user calls an SAE to what loads it: the catalogue knows hook points that configs leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from raylens.catalog.guard import guard
from raylens.catalog.lookup import Catalog
from raylens.engine.saes import LoadedSae, describe_sae, fetch_sae, load_sae
from raylens.home import from_home
from raylens.ids import HookPoint, SaeId
from raylens.specs import ModelInfo, SaeSpec


@dataclass(frozen=True, slots=True)
class SaeChoice:
    """How to load one SAE, small enough to send to an actor and to keep in the store."""

    ref: str
    hook: str | None = None
    model_name: str | None = None
    name: str | None = None
    """The id it is known by, where the user's catalogue gives a folder one."""

    def load(self, device: str) -> LoadedSae:
        """Load it; raises as :func:`raylens.engine.saes.load_sae`."""
        loaded = load_sae(self.ref, device=device, hook=self._point, model_name=self.model_name)
        return replace(loaded, spec=self._named(loaded.spec))

    def fetch(self) -> None:
        """Bring its files here, so that loading it waits for no network; raises as :func:`load`."""
        fetch_sae(self.ref)

    def describe(self) -> SaeSpec:
        """What it is, without its weights; raises as :func:`load`."""
        return self._named(describe_sae(self.ref, hook=self._point, model_name=self.model_name))

    def _named(self, spec: SaeSpec) -> SaeSpec:
        return replace(spec, id=SaeId.parse(self.name)) if self.name else spec

    @property
    def _point(self) -> HookPoint | None:
        return HookPoint.parse(self.hook) if self.hook else None


def choose(
    refs: Iterable[str], model: ModelInfo, catalog: Catalog, *, override: bool, say: Callable[[str], None]
) -> list[tuple[SaeChoice, SaeSpec]]:
    """Find each SAE and hold it against the model (A2.15), before any work.

    Args:
        refs: Paths, or ids that the catalogue, sae-lens or the hub knows.
        model: What they shall read.
        catalog: With the user's own rows.
        override: Allow an SAE trained on another model of the same shape.
        say: Told what a person should know of a choice that is allowed.

    Raises:
        InputError: one is unknown or does not fit.
    """
    found = []
    for ref in refs:
        entry = None if from_home(ref).exists() else catalog.get(SaeId.parse(ref))
        if entry is None or entry.source == "bundle":
            choice = SaeChoice(ref)
        elif entry.source == "user":
            # What its row says of the model is a claim, to be held against the folder's own config.
            choice = SaeChoice(entry.path or ref, _text(entry.hook), name=str(entry.sae))
        else:
            # The snapshot corrects and completes what configs on the hub say.
            choice = SaeChoice(ref, _text(entry.hook), entry.model)
        if entry is not None:
            # Its row alone may show that it cannot fit, before anything is fetched.
            guard(model, entry, None, override=override, catalog=catalog, entry=entry)
        spec = choice.describe()
        fit = guard(model, spec, None, override=override, catalog=catalog, entry=entry)
        if fit.note:
            say(fit.note)
        found.append((choice, spec))
    return found


def _text(hook: HookPoint | None) -> str | None:
    return None if hook is None else str(hook)
