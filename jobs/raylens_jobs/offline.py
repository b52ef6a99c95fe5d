"""A chat model on this cluster's own machines, asked as an endpoint is: nothing leaves them.

The driver keeps the questions, and the answers that were given before; actors hold the model, one a GPU, or
one on a CPU. All questions that wait go to an actor together.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import ray
import ray.exceptions
from numpy.typing import NDArray

from raylens.chat import Reply, Request, TokenLogprob
from raylens.engine import fingerprint
from raylens.engine.models import ModelFiles, locate, require_loader, require_safetensors, sidecar_files
from raylens.errors import OutOfMemoryError, RaylensError
from raylens.llm.echo import nats
from raylens.llm.errors import EndpointRefusedError
from raylens.llm.once import Once
from raylens.llm.replies import ReplyCache, losses_key, request_key
from raylens.llm.settings import OfflineSettings
from raylens.llm.spend import Usage
from raylens_jobs.chat_actor import ChatActor
from raylens_jobs.cluster import cluster
from raylens_jobs.failures import ray_failures

_log = logging.getLogger(__name__)

VERSION: Final = "1"
"""Of how chats become prompts and tokens answers: raised, it makes replies anew."""
_DEATHS: Final = 3
"""Deaths in a row, with nothing answered in between, after which a model is not started again."""
_GATHER_S: Final = 0.005
"""How long a batch that is not full waits for questions that are on their way through the reply cache."""
_LOSSES_A_QUESTION: Final = 4
"""A loss is one forward where an answer is many, so so many times more of them go together."""

Kind = Literal["answer", "losses"]
Item = Request | tuple[str, str]


@dataclass
class _Question:
    """What waits for an actor."""

    kind: Kind
    item: Item
    answer: asyncio.Future[Reply]


@dataclass(frozen=True, slots=True)
class Copies:
    """How many actors hold the model, and the GPUs and CPU threads of each; ``cpus`` is what Ray sets aside."""

    count: int
    gpus: int
    threads: int
    cpus: float


def choose_copies(settings: OfflineSettings, nodes: Sequence[Mapping[str, float]]) -> Copies:
    """A copy for each ``gpus_per_copy`` GPUs, else one on a CPU that leaves a core for those who make the questions.

    Args:
        settings: Upper bounds on GPUs.
        nodes: Resources of each live node, as Ray names them.
    """
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    allowed = sum(gpus) if settings.num_gpus is None else min(sum(gpus), settings.num_gpus)
    if allowed and settings.device != "cpu":
        each = min(settings.gpus_per_copy, max(gpus), allowed)
        return Copies(min(allowed // each, sum(n // each for n in gpus)), each, 1, 1)
    cpus = max((int(node.get("CPU", 1)) for node in nodes), default=1)
    threads = max(1, cpus - 1)
    return Copies(1, 0, threads, threads if cpus > 1 else 0)


class OfflineClient:
    """An :class:`raylens.llm.asker.Asker` for a model of one's own.

    Opening it checks what can be known without loading the model. It is loaded for the first question
    without a stored answer, on the Ray that this process is connected to, or else on one of its own. An
    actor that dies is started again and asked again.

    Args:
        settings: Which model, and how it is loaded.
        cache: Where answers are kept, by what the model's files hold; see :class:`raylens.llm.client.ChatClient`.
    """

    def __init__(self, settings: OfflineSettings, *, cache: ReplyCache | None = None) -> None:
        self.settings = settings
        self._usage = Usage()
        self._once = Once(cache, self._count)
        self._located = settings
        self._who: Mapping[str, str] = {}
        self._waiting: deque[_Question] = deque()
        self._arrived = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._broken: RaylensError | None = None
        self._stack = ExitStack()

    def __repr__(self) -> str:
        return f"OfflineClient({self.settings!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an OfflineClient is not pickled: send its settings, and open one where it is used")

    @property
    def usage(self) -> Usage:
        """Questions and tokens so far; nothing is paid for."""
        return self._usage

    async def __aenter__(self) -> Self:
        """Find the model's configuration and tokenizer; a hub model's are fetched, its weights are not.

        Raises:
            UnknownNameError: There is no such model.
            InputError: It holds no safetensors, or is stored in a quantization (AWQ, GPTQ …) that nothing here runs.
            HubUnreachableError: It is not cached, and there is no hub.
        """
        self._located, self._who = await asyncio.to_thread(_located, self.settings)
        self._once.open(self.settings.max_concurrency)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is under way and let the actors go."""
        await self._once.close()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for question in self._waiting:
            question.answer.cancel()
        self._waiting.clear()
        self._workers, self._who = [], {}
        self._stack.close()

    async def ask(self, request: Request) -> Reply:
        """The answer, from the cache or the model; its text may be empty, and is then not kept.

        Raises:
            InputError, OutOfMemoryError: The model cannot be loaded; no question will be answered.
            EndpointRefusedError: Its actor died again and again; no question will be answered.
            ContextTooLongError: Trim the request and ask again.
            RequestRefusedError: Its chat template does not take these messages.
            DiskFullError: The answer could not be kept.
        """
        return await self._once.answer(
            request_key(self._known(), request), lambda: self._asked("answer", request), lambda reply: bool(reply.text)
        )

    async def forget(self, request: Request) -> None:
        """Drop the stored answer to ``request``, which was of no use, so that a rerun asks again."""
        await self._once.forget(request_key(self._known(), request))

    async def losses(self, context: str, text: str) -> NDArray[np.float64]:
        """Loss of each token of ``text`` after ``context``, in nats, float64 ``[tokens]``; raises as :meth:`ask`.

        ``text`` is tokenised by itself, so that it has as many tokens after any context.
        """
        if not text:
            return np.zeros(0)
        key = losses_key(self._known(), context, text)
        return nats(await self._once.answer(key, lambda: self._asked("losses", (context, text)), lambda _: True))

    def _known(self) -> Mapping[str, str]:
        if not self._who:
            raise RuntimeError("open the client first: async with OfflineClient(…) as client")
        return self._who

    def _count(self, *, cached: int = 0, failed: int = 0) -> None:
        self._usage += Usage(cached=cached, failed=failed)

    async def _asked(self, kind: Kind, item: Item) -> Reply:
        if not self._workers:
            self._start()
        if self._broken is not None:
            raise self._broken
        question = _Question(kind, item, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        self._arrived.set()
        return await question.answer

    def _start(self) -> None:
        """An actor for each copy, each fed by a task of its own."""
        self._stack.enter_context(cluster(None))  # as it is, where this process has a Ray already
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        copies = choose_copies(self.settings, nodes)
        _log.info("%s: %s", self.settings.model, copies)
        self._workers = [asyncio.create_task(self._feed(_Copy(self._located, copies))) for _ in range(copies.count)]

    async def _feed(self, copy: _Copy) -> None:
        try:
            while self._broken is None:
                batch = await self._next()
                if batch:
                    await self._settle(copy, batch)
        finally:
            copy.end()

    async def _next(self) -> list[_Question]:
        """Questions of one kind, the oldest first; all that wait, up to a full batch."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        if len(self._waiting) < self.settings.max_batch:
            await asyncio.sleep(_GATHER_S)
        batch: list[_Question] = []
        rest: deque[_Question] = deque()
        while self._waiting:
            question = self._waiting.popleft()
            if question.answer.done():  # given up
                continue
            most = self.settings.max_batch * (_LOSSES_A_QUESTION if question.kind == "losses" else 1)
            fits = not batch or (question.kind == batch[0].kind and len(batch) < most)
            (batch if fits else rest).append(question)
        self._waiting = rest
        return batch

    async def _settle(self, copy: _Copy, batch: Sequence[_Question]) -> None:
        """Ask about a batch and give everybody their answer."""
        outcomes: Sequence[Any]
        try:
            outcomes, retries = await copy.ask(batch[0].kind, [question.item for question in batch])
            self._usage += Usage(calls=len(batch) * (1 + retries), retries=len(batch) * retries)
        except asyncio.CancelledError:
            for question in batch:
                question.answer.cancel()
            raise
        except Exception as error:  # whatever it is, those who wait are told
            if copy.is_lost and isinstance(error, RaylensError):
                self._broken = error
                batch = [*batch, *self._waiting]
                self._waiting.clear()
            outcomes = [error] * len(batch)
        for question, outcome in zip(batch, outcomes, strict=True):
            if question.answer.done():
                continue
            if isinstance(outcome, Exception):
                question.answer.set_exception(outcome)
                continue
            reply = _as_reply(outcome)
            self._usage += Usage(prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
            question.answer.set_result(reply)


class _Copy:
    """One actor, started when it is needed and again when it dies.

    Attributes:
        is_lost: Whether it can never answer: its model does not load, or it died again and again.
    """

    def __init__(self, settings: OfflineSettings, copies: Copies) -> None:
        self._settings = settings
        self._copies = copies
        self._actor: Any = None
        self._deaths = 0
        self.is_lost = False

    async def ask(self, kind: Kind, items: Sequence[Item]) -> tuple[Sequence[Any], int]:
        """Outcomes, one an item, and how often they had to be asked for again.

        Raises:
            EndpointRefusedError, OutOfMemoryError: The actor died too often.
            RaylensError: What it raised.
        """
        retries = 0
        while True:
            try:
                actor = self._actor or await self._started()
                with ray_failures(f"asking {self._settings.model}"):
                    outcomes = await _result(getattr(actor, kind).remote(items))
            except RaylensError as error:
                if not _is_death(error.__cause__):
                    raise
                self._mourn(error)
                retries += 1
                continue
            self._deaths = 0
            return outcomes, retries

    def end(self) -> None:
        """Let the actor go."""
        if self._actor is not None and ray.is_initialized():
            ray.kill(self._actor)
        self._actor = None

    async def _started(self) -> Any:
        """A new actor, its model loaded; a load that fails fails again, so that there is no second try."""
        self._actor = ray.remote(ChatActor).options(num_cpus=self._copies.cpus, num_gpus=self._copies.gpus).remote()
        try:
            with ray_failures(f"loading {self._settings.model}"):
                await _result(self._actor.load.remote(self._settings, self._copies.gpus, self._copies.threads))
        except RaylensError as error:
            self.is_lost = not _is_death(error.__cause__)
            raise
        return self._actor

    def _mourn(self, error: RaylensError) -> None:
        self.end()
        self._deaths += 1
        _log.warning("the worker that runs %s died: %s", self._settings.model, error.message)
        if self._deaths < _DEATHS:
            return
        self.is_lost = True
        if isinstance(error, OutOfMemoryError):
            raise error
        raise EndpointRefusedError(
            f"the worker that runs {self._settings.model} died {self._deaths} times in a row ({error.message}).",
            hint="a model too large for its node dies like this: load it in 4 bits (bnb-4bit), or take a smaller one; "
            "--verbose shows Ray's own log. Answers already given are kept.",
        )


def _located(settings: OfflineSettings) -> tuple[OfflineSettings, dict[str, str]]:
    """Settings that mean the same on every node, and all that determines an answer besides the question.

    Raises:
        UnknownNameError, InputError, HubUnreachableError: It cannot be loaded.
    """
    files = locate(settings.model, revision=settings.revision, weights=False)
    require_loader(files)
    if not _from_hub(files):
        require_safetensors(files)
    who = {
        "provider": settings.provider,
        "model": files.name,
        "revision": files.revision,
        "tokenizer": fingerprint.of_files(sidecar_files(files.folder)),
        "dtype": settings.dtype,
        "quantization": settings.quantization or "",
        "version": VERSION,
    }
    revision = files.revision if _from_hub(files) else None
    return settings.model_copy(update={"model": files.name, "revision": revision}), who


def _from_hub(files: ModelFiles) -> bool:
    """Whether it is a snapshot of a repository, whose weights may not be fetched yet."""
    return files.folder.name == files.revision


def _as_reply(outcome: Reply | NDArray[np.float64]) -> Reply:
    if isinstance(outcome, Reply):
        return replace(outcome, cost_usd=0.0)
    rows = tuple(TokenLogprob("", -float(loss), {}) for loss in outcome)
    return Reply("", logprobs=rows, prompt_tokens=len(rows), cost_usd=0.0)


def _is_death(error: BaseException | None) -> bool:
    """Whether the actor is gone, in place of having raised something."""
    return isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError)


async def _result(reference: Any) -> Any:
    """What an actor's method returns."""
    return await asyncio.wrap_future(reference.future())
