"""The Encoder: texts through models and SAEs, in this process or as a deployment of Ray Serve.

Nothing of the model stack is imported here, so that who only names the class (the gateway, a build of the services)
starts without it. Where it is not installed, every request says so, and the rest of the services works.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from ray import serve

from raylens.api.edits import FeatureMax
from raylens.api.provenance import Provenance, ProvenanceRequest
from raylens.api.reading import (
    AblateAnswer,
    AblateRequest,
    EncodeAnswer,
    EncodeRequest,
    PeaksAnswer,
    PeaksRequest,
    ValuesAnswer,
    ValuesRequest,
)
from raylens.api.workbench import (
    Edited,
    ExportedSae,
    Held,
    Hold,
    MaximaRequest,
    Predicted,
    SaeExport,
    TextPart,
)
from raylens.catalog import Catalog
from raylens.catalog.user import find_user_file
from raylens.errors import InputError, RaylensError, RunError, UnknownNameError
from raylens_serve.metrics import Metrics, in_replica
from raylens_serve.settings import ServeSettings

if TYPE_CHECKING:
    from raylens_serve.edited_reader import EditedReader
    from raylens_serve.text_reader import TextReader

_UNKNOWN: Final = "unknown"

_log = logging.getLogger(__name__)


class Encoder:
    """Reads texts.

    Requests for one model that come at about the same time are read in one pass
    (:class:`raylens_serve.pass_queue.PassQueue`, which says why it is not ``serve.batch``). Models and SAEs are loaded
    when they are asked for, and held within ``encoder.memory_bytes`` and ``encoder.models_per_replica``; the ones
    that were not used for longest make room.

    In a replica the models that are held are made known to Ray Serve by ``serve.multiplexed``, so that requests go
    where their model is. What Serve holds is the name alone: it counts models, and would let all requests wait for
    one load, where what bounds a replica is bytes.

    ::

        encoder = EncoderClient(Local(Encoder(ServeSettings())))
        answer = await encoder.encode(EncodeRequest(text="def area(radius):"))

    Args:
        settings: :class:`ServeSettings`, or its values: ``models``, ``encoder``, ``limits`` and ``workspace``, whose
            catalog.yaml is read.

    Raises:
        InputError: They are not valid.

    All requests raise:

    * UnknownNameError: the model or SAE is not served, or the SAE has no such feature; lists what there is.
    * MismatchError: the SAE was trained on another model, and not both the request and the configuration override
      the guard; or it does not fit.
    * InputError: the model stack is not installed, a token id is none, or a model is gated and no token opens it.
    * HubUnreachableError, DamagedFileError, RunError: it cannot be loaded, or gives no finite numbers.
    * OutOfMemoryError: it does not fit; the next request is answered as if nothing had been.
    """

    def __init__(self, settings: ServeSettings | Mapping[str, Any]) -> None:
        self._settings = settings if isinstance(settings, ServeSettings) else ServeSettings.of(settings)
        is_replica = in_replica()
        self._metrics = Metrics("encoder", is_replica)
        self._reader = _reader(self._settings, self._metrics, is_replica)
        self._edits: EditedReader | None = None
        self._announce = _announcer(self._settings.encoder.models_per_replica) if is_replica else None

    async def encode(self, request: EncodeRequest) -> EncodeAnswer:
        """Features of a text by token and over all of it, and the likeliest next tokens."""
        async with self._asked("encode", request.model) as reader:
            return await reader.encode(request)

    async def peaks(self, requests: Sequence[PeaksRequest]) -> list[PeaksAnswer | RaylensError]:
        """The largest features of texts, and nothing else of them; an error in the place of one that fails.

        Many at a time, as a call of a replica costs about as much as reading a hundred tokens.
        """
        return await asyncio.gather(*(self._peaks(one) for one in requests))

    async def _peaks(self, request: PeaksRequest) -> PeaksAnswer | RaylensError:
        try:
            async with self._asked("peaks", request.model) as reader:
                return await reader.peaks(request)
        except RaylensError as error:
            return error
        except Exception as error:  # a fault of ours fails nobody else
            _log.exception("a text could not be read")
            return RunError(
                f"the text could not be read ({type(error).__name__}).", hint="the log of the Encoder says why."
            )

    async def values(self, request: ValuesRequest) -> ValuesAnswer:
        """Exact activations of some features on each token."""
        async with self._asked("values", request.model) as reader:
            return await reader.values(request)

    async def ablate(self, request: AblateRequest) -> AblateAnswer:
        """What each input token does for the output.

        Without an SAE no features are looked at; where features are named without one, they are those of the first.

        Raises:
            InputError: Besides, there is no output, or nothing before it.
        """
        async with self._asked("ablate", request.model) as reader:
            return await reader.ablate(request)

    async def provenance(self, request: ProvenanceRequest) -> Provenance:
        """Which features of earlier layers caused one.

        Raises:
            InputError: Besides, it does not fire there, no SAE reads an earlier layer, or the text is too long.
        """
        async with self._asked("provenance", request.model) as reader:
            from raylens_serve.followed_reader import FollowedReader

            return await FollowedReader(reader).provenance(request)

    async def hold(self, request: Hold) -> Held:
        """Load what a session of the workbench asks for.

        Raises:
            InputError: A folder lies outside the base directory.
        """
        with self._edited("hold") as reader:
            return await reader.hold(request)

    async def predict(self, request: Edited) -> Predicted:
        """What comes next after a text, of a model and of the same model edited.

        Raises:
            InputError: An edit does not fit.
        """
        with self._edited("predict") as reader:
            return await reader.predict(request)

    async def write(self, request: Edited) -> AsyncIterator[TextPart]:
        """What both write after it; raises as :meth:`predict`."""
        with self._edited("write") as reader:
            async for part in reader.write(request):
                yield part

    async def export_sae(self, request: SaeExport) -> ExportedSae:
        """Write an SAE as a folder in SAELens format.

        Raises:
            InputError: The folder is there already, or lies outside the base directory.
            DiskFullError: No space; nothing was written.
        """
        with self._edited("export_sae") as reader:
            return await reader.export_sae(request)

    async def maxima(self, request: MaximaRequest) -> list[FeatureMax]:
        """The largest activations of features on a sample of text."""
        with self._edited("maxima") as reader:
            return await reader.maxima(request)

    async def status(self) -> dict[str, Any]:
        """What is loaded, and how much memory it takes; where the model stack is missing, that it is."""
        if isinstance(self._reader, InputError):
            return {"models": [], "missing": self._reader.message, "hint": self._reader.hint}
        return self._reader.status()

    async def check_health(self) -> None:
        """Called by Ray Serve every 10 s: that the event loop answers is all there is to know.

        Ray drops a gauge that nobody sets for 20 s, so the memory that is taken is told here as well.
        """
        if not isinstance(self._reader, InputError):
            self._reader.report()

    @contextmanager
    def _edited(self, method: str) -> Iterator[EditedReader]:
        with self._metrics.request(method, "workbench"):
            reader = self._reader
            if isinstance(reader, InputError):
                raise InputError(reader.message, hint=reader.hint)
            if self._edits is None:
                from raylens_serve.edited_reader import EditedReader

                self._edits = EditedReader(reader)
            yield self._edits

    @asynccontextmanager
    async def _asked(self, method: str, model: str | None) -> AsyncIterator[TextReader]:
        reader = self._reader
        if isinstance(reader, InputError):
            with self._metrics.request(method, _UNKNOWN):
                raise InputError(reader.message, hint=reader.hint)
        try:
            name = reader.readers.find(model).name
        except UnknownNameError:
            with self._metrics.request(method, _UNKNOWN):
                raise
        with self._metrics.request(method, name):
            if self._announce is not None:
                await self._announce(name)
            yield reader


def _reader(settings: ServeSettings, metrics: Metrics, is_replica: bool) -> TextReader | InputError:
    """What reads, or why nothing can."""
    try:
        from raylens_serve.text_reader import TextReader
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("raylens"):
            raise
        return InputError(
            f"the model stack is not installed here ({package} is missing).",
            hint="pip install 'raylens[models]' where the encoder runs, and start the services again.",
        )
    catalog = Catalog.load(find_user_file(None, settings.workspace_url))
    return TextReader(settings, catalog, metrics, is_replica=is_replica)


def _announcer(most: int) -> Callable[[str], Awaitable[str]]:
    async def held(name: str) -> str:
        return name

    multiplexed: Any = serve.multiplexed(max_num_models_per_replica=most)
    return multiplexed(held)
