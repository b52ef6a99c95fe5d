"""The client for a chat model, wherever it runs, with the workspace's reply cache behind it."""

from __future__ import annotations

from raylens.llm.asker import Asker
from raylens.llm.client import ChatClient
from raylens.llm.replies import ReplyCache
from raylens.llm.settings import ChatSettings, OfflineSettings
from raylens.store.standing import read_standing
from raylens.store.workspace import Workspace


def open_asker(chat: ChatSettings, workspace: Workspace) -> Asker:
    """An asker for ``chat`` that answers from the workspace's replies what was asked before.

    ::

        async with open_asker(chat, workspace) as asker:
            reply = await asker.ask(request)

    Nothing is sent, loaded or checked before it is entered. An offline model is asked at the services of this
    workspace, where they are up and serve it; else it runs on the Ray that this process is connected to when the
    first question without a stored answer comes.
    """
    cache = ReplyCache(workspace.files)
    if isinstance(chat, OfflineSettings):
        if (standing := read_standing(workspace.files)) is not None:
            from raylens_jobs.own_model import OwnModelClient

            return OwnModelClient(chat, standing, cache=cache)
        from raylens_jobs.offline import OfflineClient

        return OfflineClient(chat, cache=cache)
    return ChatClient(chat, cache=cache)
