"""The actor that holds a chat model of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylens.chat import Request
from raylens.llm.settings import OfflineSettings

if TYPE_CHECKING:
    from raylens.engine.local_chat import LocalChat


class ChatActor:
    """Loads a model and answers batches; one batch at a time.

    It is made empty, as what an actor's constructor raises reaches the driver as a text alone.
    """

    def __init__(self) -> None:
        self._chat: LocalChat | None = None

    def load(self, settings: OfflineSettings, gpus: int, threads: int) -> None:
        """Load the model of ``settings`` onto the GPUs that Ray gave this actor, or onto so many CPU threads.

        Raises:
            UnknownNameError, InputError, HubUnreachableError, DamagedFileError, OutOfMemoryError: See
                :func:`raylens.engine.load.load_model`.
        """
        import torch

        from raylens.engine.dedicated import dedicate
        from raylens.engine.load import load_model
        from raylens.engine.local_chat import LocalChat

        dedicate(threads)
        device = settings.device
        if device == "auto" and not gpus and torch.cuda.is_available():
            device = "cpu"  # Ray gave it no GPU, though the machine has some
        model = load_model(
            settings.model,
            revision=settings.revision,
            dtype=settings.dtype,
            device=device,
            quantization=settings.quantization,
            num_gpus=gpus if gpus > 1 else None,
        )
        self._chat = LocalChat(model, max_model_len=settings.max_model_len, max_batch=settings.max_batch)

    def answer(self, requests: Sequence[Request]) -> list[Any]:
        """See :meth:`raylens.engine.local_chat.LocalChat.answer`."""
        return list(self._loaded().answer(requests))

    def losses(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        """See :meth:`raylens.engine.local_chat.LocalChat.losses`."""
        return list(self._loaded().losses(pairs))

    def _loaded(self) -> LocalChat:
        assert self._chat is not None, "load comes first"
        return self._chat
