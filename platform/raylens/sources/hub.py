"""Data sets of the Hugging Face hub, streamed through ``datasets`` (imported only when one is read).

Without a network a data set still reads if ``datasets`` has it in its cache. Rows come in the hub's
order and are shuffled by the buffer alone. Remote code is never run, and nothing but the split asked
for is downloaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from raylens.corpus.document import Document
from raylens.errors import CorpusError, HubUnreachableError, InputError, UnknownNameError
from raylens.sources.rows import Content, content_of, missing_column
from raylens.sources.spec import HubSource

if TYPE_CHECKING:
    from datasets import DatasetBuilder, IterableDataset

_CHECKED_ROWS = 4
_PROBE_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class HubText:
    """A hub source, resolved: which commit and config it is, and its rows."""

    source: HubSource
    revision: str
    config: str
    rows: IterableDataset


def pin(source: HubSource) -> HubSource:
    """``source`` with the commit and config that it names now, so that later reads see the same rows.

    Raises:
        UnknownNameError: the hub has no such data set, config or split.
        HubUnreachableError: no hub, and the data set is not cached.
    """
    resolved = _resolve(source)
    return replace(source, revision=resolved.revision, config=resolved.config)


def check_hub(source: HubSource) -> None:
    """Read the first rows.

    Raises:
        CorpusError: there are none, or they have no such column of text.
        UnknownNameError, HubUnreachableError: as :func:`pin`.
    """
    rows = [content for _, content in islice(_contents(_resolve(source)), _CHECKED_ROWS)]
    if not rows or (len(rows) < _CHECKED_ROWS and not any(isinstance(row, tuple) or row.strip() for row in rows)):
        raise CorpusError(f"{source.spec} is empty: it holds no text.", hint="name a split or slice that holds some.")


def read_hub(source: HubSource) -> Iterator[Document]:
    """Stream the documents.

    Raises:
        CorpusError, UnknownNameError, HubUnreachableError: as :func:`check_hub`, at any row.
    """
    resolved = _resolve(source)
    for row, content in _contents(resolved):
        text, messages = (content, None) if isinstance(content, str) else ("", content)
        path = f"{source.repo}#{row}"
        yield Document(text, source.spec, resolved.config, path, source.split.name, messages)


def _contents(resolved: HubText) -> Iterator[tuple[int, Content]]:
    source, column = resolved.source, resolved.source.column
    from datasets.exceptions import DatasetsError

    try:
        for number, row in enumerate(resolved.rows, 1):
            where = f"{source.repo}#{number}"
            if column not in row:
                raise missing_column(column, where, list(row))
            yield number, content_of(row[column], column, where)
    except (pa.ArrowInvalid, DatasetsError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{source.spec} is malformed: {_line(error)}.", hint="name another split or config."
        ) from None
    except (OSError, _transport_error()) as error:
        raise _unreachable(source, f"stopped answering ({_line(error)})") from None


def _resolve(source: HubSource) -> HubText:
    builder = _builder(source)
    config, revision = str(builder.config.name), str(builder.hash)
    if source.revision not in (None, revision):
        raise _unreachable(source, f"cannot be reached, and what is cached is commit {revision[:8]}")
    try:
        splits = cast("dict[str, IterableDataset]", builder.as_streaming_dataset())
    except (OSError, _transport_error()) as error:
        raise _unreachable(source, f"stopped answering ({_line(error)})") from None
    name = source.split.name
    if name not in splits:
        raise UnknownNameError.among(f"split of {source.repo}", name, splits, hint="write hf:repo:config:split.")
    rows = splits[name]
    if rows.column_names is not None:
        if source.column not in rows.column_names:
            raise missing_column(source.column, source.spec, list(rows.column_names))
        rows = rows.select_columns([source.column])
    return HubText(source, revision, config, _sliced(source, rows, builder))


def _sliced(source: HubSource, rows: IterableDataset, builder: DatasetBuilder) -> IterableDataset:
    split = source.split
    if split.percent:
        stated = (builder.info.splits or {}).get(split.name)
        if stated is None or not stated.num_examples:
            raise InputError(
                f"{source.repo} does not state how many rows {split.name} has, so {split} cannot be cut.",
                hint=f"cut it in rows, for example {split.name}[:10000], or leave the slice out; --n-tokens ends it.",
            )
        low, high = split.rows(stated.num_examples)
    else:
        low, high = split.low, split.high
    rows = rows.skip(low) if low else rows
    return rows if high is None else rows.take(high - low)


def _builder(source: HubSource) -> DatasetBuilder:
    from datasets import load_dataset_builder
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    token = os.environ.get("HF_TOKEN") or os.environ.get("RAYLENS_SAE_MODEL_KEY")
    _probe(source, token)
    try:
        # The full address: a folder of that name in the working directory is not meant.
        return load_dataset_builder(
            f"hf://datasets/{source.repo}", source.config, revision=source.revision, token=token
        )
    except ConnectionError as error:
        raise _unreachable(source, f"cannot be reached ({_line(error)})") from None
    except FileNotFoundError as error:  # of which datasets' own "no such data set" and "no data files" are kinds
        raise CorpusError(
            f"{source.repo} cannot be read as a data set: {_line(error)}.",
            hint="check that it holds text, JSON, CSV or Parquet files; a gated one needs HF_TOKEN.",
        ) from None
    except ValueError as error:  # no such config, or one must be named; the message lists them
        raise UnknownNameError(
            f"{source.spec} does not name a config of {source.repo}: {_line(error)}.",
            hint="write hf:repo:config:split.",
        ) from None
    except (OSError, _transport_error()) as error:
        raise _unreachable(source, f"cannot be reached ({_line(error)})") from None


def _probe(source: HubSource, token: str | None) -> None:
    """One request, so that an unreachable hub or a wrong name shows at once; ``datasets`` retries for 25 s."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        HfApi().dataset_info(source.repo, revision=source.revision, timeout=_PROBE_TIMEOUT_S, token=token)
    except GatedRepoError:
        raise InputError(
            f"the data set {source.repo} is gated, and this machine may not read it.",
            hint="accept its terms on the hub, then set HF_TOKEN to a read token of that account.",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UnknownNameError(
            f"there is no data set {source.repo} on the hub, or it is private.",
            hint="check the spelling; if it is private, set HF_TOKEN to a token that may read it.",
        ) from None
    except OfflineModeIsEnabled:
        pass  # datasets then looks into its cache at once
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(
                f"the hub refused the data set {source.repo} (HTTP {status}).",
                hint="set HF_TOKEN to a token that may read it.",
            ) from None
        _need_cached(source, f"answered with HTTP {status}")
    except (OSError, _transport_error()) as error:
        _need_cached(source, f"cannot be reached ({_line(error)})")


def _need_cached(source: HubSource, what: str) -> None:
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    *owner, name = source.repo.split("/")
    if not (Path(config.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(name)])).is_dir():
        raise _unreachable(source, what)
    logging.getLogger(__name__).warning("the hub %s; reading %s from the cache of datasets", what, source.repo)


def _transport_error() -> type[Exception]:
    from huggingface_hub.errors import HfHubHTTPError

    # httpx's or httpx2's own base error, whichever this version of the hub client is built on.
    return cast("type[Exception]", HfHubHTTPError.__mro__[1])


def _unreachable(source: HubSource, what: str) -> HubUnreachableError:
    return HubUnreachableError(
        f"{source.spec}: the hub {what}, and the data set is not cached here.",
        hint=(
            f"try again with a network; or run `hf download --repo-type dataset {source.repo} --local-dir texts` "
            "where there is one, and name that folder; stdlib needs none."
        ),
    )


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
