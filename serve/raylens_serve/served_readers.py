"""Which models and SAEs the Encoder reads with: found by name, held against one another, and loaded when needed.

Descriptions (configurations, guards, sizes) are worked out once, in helper threads. Weights are loaded in the one
thread that also runs the models: transformers sets torch's default dtype while it loads, for the whole process, and a
forward pass of another model in that moment would create tensors in it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from raylens.catalog import Catalog
from raylens.catalog.entries import CatalogEntry
from raylens.catalog.guard import OVERRIDE, guard
from raylens.config import ModelConfig
from raylens.engine.candidates import load_candidate
from raylens.engine.feature_reading import TextReading, WantedReading, read_texts, tokens_a_pass
from raylens.engine.load import LoadedModel, choose_device, load_model
from raylens.engine.model_memory import encoding_bytes, loaded_bytes, model_bytes, pass_bytes, sae_bytes
from raylens.engine.model_shelf import Need
from raylens.engine.models import describe_model, locate
from raylens.engine.sae_choice import SaeChoice, choose
from raylens.engine.saes import LoadedSae
from raylens.errors import InputError, MismatchError, UnknownNameError
from raylens.ids import SaeId
from raylens.specs import ModelInfo, SaeSpec
from raylens.store.base_dir import inside_base
from raylens_serve.once import Once
from raylens_serve.pass_queue import PassQueue
from raylens_serve.settings import EncoderSettings, ModelSettings

T = TypeVar("T")

Readings = PassQueue[WantedReading, TextReading]


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A model that is loaded, and who waits for it."""

    loaded: LoadedModel
    readings: Readings


@dataclass(frozen=True, slots=True)
class ConfiguredModel:
    """A model of the configuration.

    Attributes:
        name: Its one name.
        settings: As configured.
        config: How it is loaded.
        adapter: A LoRA that is merged into it.
    """

    name: str
    settings: ModelSettings
    config: ModelConfig
    adapter: str | None = None

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return choose_device(self.config.device)


class ServedReaders:
    """Models and SAEs by name, as what has to be loaded.

    Args:
        models: As configured; the first one answers where none is named.
        encoder: As configured.
        catalog: For names, hook points and the guard.
        thread: Runs models, one thing at a time.
        files: Reads configurations and fetches files.

    Raises:
        InputError: A model is configured twice.
    """

    def __init__(
        self,
        models: Sequence[ModelSettings],
        encoder: EncoderSettings,
        catalog: Catalog,
        thread: Executor,
        files: Executor,
    ) -> None:
        self._encoder, self._catalog, self._thread, self._files = encoder, catalog, thread, files
        self._models: dict[str, ConfiguredModel] = {}
        for one in models:
            name = catalog.aliases.canonical(one.model)
            if name in self._models:
                raise InputError(f"{name} is configured twice.", hint="name each model once, with all of its SAEs.")
            self._models[name] = ConfiguredModel(name, one, _config(one, encoder))
        self._described: Once[str, tuple[ModelInfo, Need]] = Once()
        self._chosen: Once[tuple[str, str, bool], tuple[Need, SaeSpec]] = Once()
        self._has_dropped = False

    @property
    def catalog(self) -> Catalog:
        """For names, hook points and the guard."""
        return self._catalog

    @property
    def models(self) -> tuple[ConfiguredModel, ...]:
        """All of them."""
        return tuple(self._models.values())

    def find(self, model: str | None) -> ConfiguredModel:
        """A served model by any of its names, the first one for None.

        Raises:
            UnknownNameError: It is not served; lists those that are.
        """
        if model is None:
            return next(iter(self._models.values()))
        found = self._models.get(self._catalog.aliases.canonical(model))
        if found is None:
            known = UnknownNameError.among("model", model, self._models, hint="Others go into models in the config.")
            raise UnknownNameError(f"model {model!r} is not served.", hint=known.hint)
        return found

    def attach(self, model: str | None, adapter: str | None = None) -> ConfiguredModel:
        """A model that is served, or one that the catalogue knows, or a folder inside the base directory.

        Args:
            model: Which; None for the first one that is served.
            adapter: A LoRA on it: a folder inside the base directory.

        Raises:
            UnknownNameError: There is no such model.
            InputError: A folder lies outside the base directory.
        """
        try:
            found = self.find(model)
        except UnknownNameError:
            found = self._elsewhere(model or "")
        if adapter is None:
            return found
        folder = str(_folder(adapter, "adapter"))
        name = f"{found.name} with {folder}"
        return ConfiguredModel(name, found.settings, found.config, folder)

    def _elsewhere(self, model: str) -> ConfiguredModel:
        name = self._catalog.aliases.canonical(model)
        if not self._catalog.trained_on(name):
            if "/" not in model and "\\" not in model:
                known = {*self._catalog.models, *self._models}
                raise UnknownNameError.among("model", model, known, hint="A folder is named with a slash: ./model.")
            name = str(_folder(model, "model"))
        first = next(iter(self._models.values())).settings
        settings = ModelSettings(model=name, device=first.device)
        return ConfiguredModel(name, settings, _config(settings, self._encoder))

    async def attached_sae(self, served: ConfiguredModel, name: str, override: bool) -> Need:
        """An SAE of a session: of the catalogue, one that the services were configured with, or a folder inside the
        base directory.

        Args:
            served: The model that it shall read.
            name: Which.
            override: Take it though it was trained on another model: who attaches it says so (A0.04).

        Raises:
            UnknownNameError: There is no such SAE.
            MismatchError: It was trained on another model, or does not fit.
        """
        info, _ = await self._model(served)
        row = self._row(name)
        configured = {ref for one in self._models.values() for ref in one.settings.saes or ()}
        ref = str(row.sae) if row is not None else name if name in configured else str(_folder(name, "SAE"))
        need, _ = await self._sae(served, info, ref, override)
        return need

    def dropped(self) -> None:
        """Told when something that was loaded is held no longer."""
        self._has_dropped = True

    async def model(self, served: ConfiguredModel) -> Need:
        """A model, as what has to be loaded.

        Raises:
            InputError, HubUnreachableError: Its configuration cannot be read.
        """
        _, need = await self._model(served)
        return need

    async def saes(self, served: ConfiguredModel, names: Sequence[str] | None, override: bool) -> list[Need]:
        """SAEs of a model, as what has to be loaded.

        Args:
            served: The model.
            names: Of those that are served with it; None for all of them, and where the catalogue's are served,
                which may be hundreds, for the one that the catalogue would suggest.
            override: Take also one that was trained on another model, where the configuration allows it (A0.04).

        Raises:
            UnknownNameError: One is not served; lists those that are.
            MismatchError: One was trained on another model, or does not fit.
        """
        return [need for need, _ in await self.chosen(served, names, override)]

    async def chosen(
        self, served: ConfiguredModel, names: Sequence[str] | None, override: bool
    ) -> list[tuple[Need, SaeSpec]]:
        """The same, each with what it is; raises as :meth:`saes`."""
        info, _ = await self._model(served)
        override = override and served.settings.override_guard
        if names is not None:
            refs = [self._reference(served, info, name, override) for name in dict.fromkeys(names)]
            return [await self._sae(served, info, ref, override) for ref in refs]
        found: list[tuple[Need, SaeSpec]] = []
        refusal: MismatchError | None = None
        for ref in served.settings.saes or self._of_catalog(served)[:1]:
            try:
                found.append(await self._sae(served, info, ref, override))
            except MismatchError as error:
                refusal = refusal or error
        if refusal is not None and not found:
            raise refusal
        return found

    def _of_catalog(self, served: ConfiguredModel) -> list[str]:
        rows = sorted(self._catalog.trained_on(served.name), key=CatalogEntry.preference)
        return [str(row.sae) for row in rows]

    def _reference(self, served: ConfiguredModel, info: ModelInfo, name: str, override: bool) -> str:
        """What is loaded for a name that a client gave: never a path of its own."""
        named = served.settings.saes
        offered = self._of_catalog(served) if named is None else list(named)
        if name in offered:
            return name
        row = self._row(name)
        if row is not None:
            # One that was trained on another model is refused as that, not as unknown.
            with _own_words():
                guard(info, row, override=override, catalog=self._catalog, entry=row)
            if named is None:
                return str(row.sae)
        known = UnknownNameError.among("SAE", name, offered)
        raise UnknownNameError(f"SAE {name!r} is not served for {served.name}.", hint=known.hint)

    def _row(self, name: str) -> CatalogEntry | None:
        try:
            return self._catalog.get(SaeId.parse(name))
        except InputError:  # no id at all, so none that is served
            return None

    async def _model(self, served: ConfiguredModel) -> tuple[ModelInfo, Need]:
        return await self._described.of(served.name, partial(self._describe, served))

    async def _describe(self, served: ConfiguredModel) -> tuple[ModelInfo, Need]:
        config, device = served.config, served.device
        info = await _in(self._files, partial(describe_model, config.model, revision=config.revision))
        size = await _in(self._thread, partial(model_bytes, config))
        working = pass_bytes(info, device, self._encoder.batch_tokens)
        load = partial(self._load_model, served)
        return info, Need(served.name, served.name, size, working, load, _model_size)

    async def _sae(self, served: ConfiguredModel, info: ModelInfo, ref: str, override: bool) -> tuple[Need, SaeSpec]:
        return await self._chosen.of((served.name, ref, override), partial(self._choose, served, info, ref, override))

    async def _choose(self, served: ConfiguredModel, info: ModelInfo, ref: str, override: bool) -> tuple[Need, SaeSpec]:
        find = partial(choose, [ref], info, self._catalog, override=override, say=_say_nothing)
        with _own_words():
            ((choice, spec),) = await _in(self._files, find)
        device = served.device
        working = encoding_bytes(spec, device, self._encoder.batch_tokens)
        load = partial(self._load_sae, choice, device)
        name = f"{spec.id} for {served.name}"
        return Need(name, served.name, sae_bytes(spec), working, load, _sae_size), spec

    async def _load_model(self, served: ConfiguredModel) -> HeldModel:
        config = served.config
        # Downloads are none of the models' thread's business.
        await _in(self._files, partial(locate, config.model, revision=config.revision))
        load = partial(
            load_model,
            config.model,
            dtype=config.dtype,
            device=config.device,
            quantization=config.quantization,
            revision=config.revision,
        )
        if served.adapter is not None:
            how = {"dtype": config.dtype, "device": config.device}
            load = partial(load_candidate, served.adapter, config.model, **how)
        loaded: LoadedModel = await _in(self._thread, partial(self._load, load))
        tokens = self._encoder.batch_tokens
        readings: Readings = PassQueue(
            lambda wanted: read_texts(loaded, wanted, tokens),
            self._thread,
            size=lambda wanted: len(wanted.ids),
            most=2 * tokens_a_pass(loaded, tokens),
            wait_s=self._encoder.batch_wait_s,
        )
        return HeldModel(loaded, readings)

    async def _load_sae(self, choice: SaeChoice, device: torch.device) -> LoadedSae:
        await _in(self._files, choice.fetch)
        return await _in(self._thread, partial(self._load, partial(choice.load, str(device))))

    def _load(self, load: Callable[[], Any]) -> Any:
        """Load, once what was dropped before is really gone: models refer to themselves."""
        if self._has_dropped:
            self._has_dropped = False
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return load()


async def _in(pool: Executor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)


@contextmanager
def _own_words() -> Iterator[None]:
    """What the guard says, with the way to override it that there is here."""
    try:
        yield
    except MismatchError as error:
        way = "override_guard, in the request and in the model's settings"
        raise MismatchError(error.message, hint=error.hint.replace(OVERRIDE, way)) from error


def _config(model: ModelSettings, encoder: EncoderSettings) -> ModelConfig:
    # A replica without a GPU of its own takes none, though the machine may have some.
    device = "cpu" if model.device == "auto" and encoder.num_gpus == 0 else model.device
    return ModelConfig(
        model=model.model,
        revision=model.revision,
        dtype=model.dtype,
        quantization=model.quantization,
        device=device,
    )


def _folder(path: str, what: str) -> Path:
    found = inside_base(path, what)
    if not found.is_dir():
        raise UnknownNameError(f"there is no {what} {path!r}.", hint="name one of the catalogue, or a folder.")
    return found


def _model_size(held: HeldModel) -> int:
    return loaded_bytes(held.loaded.model)


def _sae_size(held: LoadedSae) -> int:
    return loaded_bytes(held.sae)


def _say_nothing(_note: str) -> None:
    """What the guard would have a person know is in the catalogue's answer."""
