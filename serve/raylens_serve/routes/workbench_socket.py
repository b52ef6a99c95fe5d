"""``/ws/inference``: next-token probabilities, pushed whenever the text or a patch of the session changes.

The client sends JSON: ``{"text": "…", "top_k": 10}`` sets the text, ``{"toggle": "<patch>", "enabled": true}`` turns a
patch on or off (``enabled`` may be left out), and both may come in one message. The server answers with
``{"type": "prediction", …}``, or ``{"type": "error", "error": …, "hint": …}``. Of several changes that come while a
prediction is worked out only what stands in the end is predicted: whoever drags a slider sees the last place.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, WebSocket
from pydantic import Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from raylens.api.base import Asked
from raylens.api.reading import KEPT
from raylens.api.workbench import InferenceRequest, PatchId
from raylens.errors import InputError
from raylens_serve.problems import answer
from raylens_serve.routes.workbench import session_of
from raylens_serve.sessions import Sessions


class SocketMessage(Asked):
    """What a client sends.

    Attributes:
        text: To be predicted from now on.
        top_k: Likely next tokens of each model.
        toggle: A patch to turn on or off.
        enabled: Which; None for the other way round.
    """

    text: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    top_k: Annotated[int, Field(ge=1, le=KEPT)] | None = None
    toggle: PatchId | None = None
    enabled: bool | None = None


def workbench_socket(sessions: Sessions, prefix: str) -> APIRouter:
    """The route; the session is that of header or cookie, or ``?session=``."""
    routes = APIRouter(prefix=prefix)

    @routes.websocket("/ws/inference")
    async def inference(socket: WebSocket) -> None:
        await socket.accept()
        try:
            name = session_of(socket, socket.query_params.get("session")) or ""
        except InputError as error:
            await socket.close(4400, error.message)
            return
        live = _Live(socket, sessions, name)
        sessions.watch(name, live.changed)
        pushing = asyncio.create_task(live.push())
        try:
            while True:
                await live.take(await socket.receive_text())
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client went away
        finally:
            pushing.cancel()
            sessions.unwatch(name, live.changed)

    return routes


class _Live:
    """One connection."""

    def __init__(self, socket: WebSocket, sessions: Sessions, name: str) -> None:
        self._socket, self._sessions, self._name = socket, sessions, name
        self._request: InferenceRequest | None = None
        self._top_k = 10
        self.changed = asyncio.Event()

    async def take(self, said: str) -> None:
        """One message."""
        try:
            message = SocketMessage.model_validate_json(said)
            self._top_k = message.top_k or self._top_k
            if message.toggle is not None:
                await self._sessions.toggle(self._name, message.toggle, message.enabled)
            text = message.text or (self._request.text if self._request is not None else None)
            if text is not None:
                self._request = InferenceRequest(text=text, top_k=self._top_k)
                self.changed.set()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the message"
            await self._refuse(InputError(f"{where} is not valid: {first['msg']}.", hint="see docs/workbench.md."))
        except Exception as error:
            await self._refuse(error)

    async def push(self) -> None:
        """Predict whenever something changed."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            if self._request is None:
                continue
            try:
                found = await self._sessions.infer(self._name, self._request)
                await self._socket.send_text(json.dumps({"type": "prediction", **found.model_dump(mode="json")}))
            except (WebSocketDisconnect, RuntimeError):
                return
            except Exception as error:
                await self._refuse(error)

    async def _refuse(self, error: Exception) -> None:
        said: dict[str, Any] = json.loads(bytes(answer("/ws/inference", error).body))
        await self._socket.send_text(json.dumps({"type": "error", **said}))
