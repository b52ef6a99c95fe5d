"""What the features of a span mean, for who waits for an answer: never for longer than three seconds (A0.13–A0.19).

First comes what this workspace knows: explanations, people's labels, and labels kept from elsewhere. Where it is
allowed, Neuronpedia is asked for the rest, beside the answer: what does not come in time is there at the next call.
Without a label, a feature's bucket is guessed from the tokens that it promotes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from raylens.api.extraction import Bucket, Extraction, SpanFeature
from raylens.api.reading import Peak
from raylens.catalog import Catalog
from raylens.errors import RaylensError
from raylens.ids import FeatureId, SaeId, ShortFeature
from raylens.labels.best import best
from raylens.labels.buckets import bucket_of, bucket_of_tokens
from raylens.labels.client import LabelClient
from raylens.labels.explanations import Explanation, read_explanation
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId, label_source, page_url
from raylens.labels.own_features import Own, OwnFeatures
from raylens.labels.settings import LabelSettings, Mode, is_enabled
from raylens.store.feature_card import promoted
from raylens.store.workspace import Workspace

TIMEOUT_S: Final = 3.0
"""For all labels of a span together."""
PENDING: Final = "(label pending)"

_LOOK_EVERY_S: Final = 1.0
_ASK_AGAIN_S: Final = 300.0
"""After Neuronpedia wanted no more requests, a batch run asks no more at all; a service asks again after a while."""
_THREADS: Final = 4
_TOKENS: Final = 10
_REMEMBERED: Final = 65_536
_LOST: Final = (RaylensError, OSError)
"""What may go wrong with labels: a damaged file, a store that is away. Features are shown all the same."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def feature_line(feature: SpanFeature) -> str:
    """A feature in a line (A0.16, A0.17): ``f_15_4109 · label  0.92``."""
    return f"{feature.id} · {feature.label or PENDING}  {feature.activation:.2f}"


@dataclass(frozen=True, slots=True)
class _Known:
    """What is at hand.

    Attributes:
        labels: What to show of features of which something is said.
        settled: Features of which Neuronpedia has said what it knows.
        guesses: Buckets of features without a label.
        source: Where Neuronpedia has the SAE's labels; None where it has none.
    """

    labels: Mapping[int, str] = field(default_factory=dict)
    settled: frozenset[int] = frozenset()
    guesses: Mapping[int, Bucket] = field(default_factory=dict)
    source: NeuronpediaId | None = None


class SpanLabels:
    """Labels of the features of spans; for one event loop.

    Args:
        workspace: Where explanations, people's labels and kept ones are.
        catalog: Which SAEs Neuronpedia has.
        enabled: Whether Neuronpedia may be asked; by default as ``RAYLENS_NEURONPEDIA_ENABLED`` says.
        timeout_s: For one answer.
        own: The workspace's features, where others read them too.

    Raises:
        InputError: A variable of the environment has no possible value.
    """

    def __init__(
        self,
        workspace: Workspace,
        catalog: Catalog,
        *,
        enabled: bool | None = None,
        timeout_s: float = TIMEOUT_S,
        own: OwnFeatures | None = None,
    ) -> None:
        self._files, self._timeout_s = workspace.files, timeout_s
        self._may_ask = is_enabled() if enabled is None else enabled
        mode: Mode = "remote_fallback" if self._may_ask else "cache_only"
        # Who waits for an answer is not helped by a pause that is longer.
        self._settings = LabelSettings.from_environment(mode=mode).model_copy(update={"max_wait_s": timeout_s})
        self.client = self._opened()
        """Through whom Neuronpedia is asked."""
        self._own = own or OwnFeatures(workspace, catalog, look_every_s=_LOOK_EVERY_S)
        self._here = ThreadPoolExecutor(_THREADS, "labels here")
        # Threads of their own: questions that wait for an answer must not keep what is known from being read.
        self._elsewhere = ThreadPoolExecutor(_THREADS, "labels elsewhere")
        self._guesses: OrderedDict[tuple[SaeId, int], Bucket] = OrderedDict()
        self._asked: dict[tuple[NeuronpediaId, int], Future[None]] = {}
        self._turn = threading.Lock()
        self._renewed = self._answering = time.monotonic()

    async def label(self, extraction: Extraction, top_k: int) -> tuple[SpanFeature, ...]:
        """The largest features of a span, with labels; within the timeout, whatever becomes of the labels."""
        until = time.monotonic() + self._timeout_s
        peaks, sae = extraction.peaks.first(top_k), SaeId.parse(extraction.sae)
        known = await self._within(until, self._here.submit(self._known, sae, [one.index for one in peaks])) or _Known()
        labels = dict(known.labels)
        bare = [one.index for one in peaks if one.index not in labels and one.index not in known.settled]
        if self._may_ask and known.source is not None and bare:
            # The last tenth of the time is for reading what came of it: part of it may be there.
            asked_until = until - self._timeout_s / 10
            for asked in self._ask(known.source, bare):
                await self._within(asked_until, asked)
            labels |= await self._within(until, self._here.submit(self._fetched, known.source, bare)) or {}
        return tuple(_feature(extraction, one, labels.get(one.index), known) for one in peaks)

    def close(self) -> None:
        """Keep what was fetched, and let go of threads and connections; who still waits gets no label."""
        self._here.shutdown(cancel_futures=True)
        self._elsewhere.shutdown(wait=False, cancel_futures=True)
        self.client.close()
        self._elsewhere.shutdown()
        self._own.close()

    async def _within(self, until: float, work: Future[_T]) -> _T | None:
        """What comes of work in a thread; None where it fails or is late, which does not end it."""
        waited = asyncio.wrap_future(work)
        # Whoever is late may still fail, with nobody there to be told.
        waited.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([waited], timeout=max(0.001, until - time.monotonic()))
        if not waited.done():
            _log.info("labels were not there within %g s.", self._timeout_s)
            return None
        try:
            return waited.result() if not work.cancelled() else None
        except _LOST as error:
            _log.warning("labels could not be read: %s", error)
            return None

    # ------------------------------------------------------------------ in threads

    def _known(self, sae: SaeId, indices: Sequence[int]) -> _Known:
        self._renew()
        held = self._own.held(sae)
        elsewhere = held[-1].elsewhere if held else label_source(sae, self._own.catalog)
        said: dict[int, list[Explanation]] = {index: [] for index in indices}
        for cache in held:
            for index, listed in self._own.explanations_in(cache, indices).items():
                said[index] += [one for it in listed if (one := read_explanation(it)) is not None]
        source = held[-1].source if held else elsewhere  # labels may be kept under a name of ours too
        looked = self.client.known(source, indices) if source is not None else {}
        for index, one in looked.items():
            said[index] += one.explanations
        labels = {index: found.description for index, some in said.items() if (found := best(some)) is not None}
        # What somebody here took the trouble to write comes before what was generated; of several the latest.
        people = sorted(self._own.labels.read().labels_of(sae), key=lambda one: one.at)
        labels |= {one.feature: one.label for one in people if one.label is not None and one.feature in said}
        guesses = self._guessed(held[-1], [index for index in indices if index not in labels]) if held else {}
        return _Known(labels, frozenset(looked), guesses, elsewhere)

    def _guessed(self, own: Own, indices: Sequence[int]) -> dict[int, Bucket]:
        """From promoted tokens, which follow from weights alone: what was guessed once stays."""
        fresh = [index for index in indices if (own.sae, index) not in self._guesses]
        if fresh:
            tokens = promoted(self._own.reader(own.cache_id), own.sae, fresh, _TOKENS)
            found: dict[tuple[SaeId, int], Bucket] = {
                (own.sae, index): bucket_of_tokens(tokens.get(index, ())) for index in fresh
            }
            with self._turn:
                self._guesses |= found
                while len(self._guesses) > _REMEMBERED:
                    self._guesses.popitem(last=False)
        return {index: guess for index in indices if (guess := self._guesses.get((own.sae, index))) is not None}

    def _fetched(self, source: NeuronpediaId, indices: Sequence[int]) -> dict[int, str]:
        looked = self.client.known(source, indices)
        return {index: one.best.description for index, one in looked.items() if one.best is not None}

    def _renew(self) -> None:
        """See what others fetched or imported; and ask again, after a while, who wanted no more requests."""
        with self._turn:
            now = time.monotonic()
            if now - self._renewed < _LOOK_EVERY_S:
                return
            self._renewed = now
            self.client.refresh()
            if self.client.stopped is None:
                self._answering = now
            elif now - self._answering > _ASK_AGAIN_S:
                before, self.client, self._answering = self.client, self._opened(), now
                before.close()

    def _ask(self, source: NeuronpediaId, indices: Sequence[int]) -> list[Future[None]]:
        """Have features looked up; what is being looked up already is not asked for twice."""
        under_way = [asked for index in indices if (asked := self._asked.get((source, index))) is not None]
        fresh = [index for index in indices if (source, index) not in self._asked]
        if fresh:
            asked = self._elsewhere.submit(self._look_up, source, fresh)
            self._asked |= {(source, index): asked for index in fresh}
            asked.add_done_callback(lambda _: [self._asked.pop((source, index), None) for index in fresh])
            under_way.append(asked)
        return list(dict.fromkeys(under_way))

    def _look_up(self, source: NeuronpediaId, indices: Sequence[int]) -> None:
        """Fetch; what comes stays with the client, hits and misses alike (A0.14)."""
        try:
            self.client.labels(source, indices)
        except CancelledError:
            _log.info("labels were still being fetched at the end.")

    def _opened(self) -> LabelClient:
        return LabelClient(LabelStore(self._files), self._settings)


def _feature(extraction: Extraction, peak: Peak, label: str | None, known: _Known) -> SpanFeature:
    layer, index = extraction.layer, peak.index
    named = FeatureId(SaeId.parse(extraction.sae), index) if layer is None else ShortFeature(layer, index)
    return SpanFeature(
        id=str(named),
        index=index,
        layer=layer,
        label=label,
        bucket=bucket_of(label) if label is not None else known.guesses.get(index, "unknown"),
        activation=peak.activation,
        position=peak.position,
        neuronpedia_url=page_url(known.source, index) if known.source is not None else None,
    )
