"""A session's tools as MCP tools, at ``/mcp/SESSION``: for agents that speak the Model Context Protocol and nothing of ours.

Whoever trains or measures opens the session and keeps the token; the agent gets the address and the session's key. It sees what a policy sees:
observations, and no reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server as McpServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, TextContent, Tool
from starlette.types import ASGIApp, Receive, Scope, Send

from agentgym.errors import AgentGymError, SessionGone, Unauthorised
from agentgym.messages import call as written
from agentgym.serving import protocol as p
from agentgym.serving.sessions import Session, Sessions

OBSERVE = Tool(name="observe", description="What you see now: the task, at the beginning. Changes nothing.", input_schema={"type": "object", "properties": {}})
SAY = Tool(
    name="say", description="Act in plain text: a command, a move or an answer.",
    input_schema={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)  # fmt: skip
Context = ServerRequestContext[Any, Any]


def _of(context: Context, name: str) -> Any:
    assert context.request is not None
    return context.request.scope[f"agentgym.{name}"]


class Tools:
    """The MCP side of a server: an ASGI application, and the context that it runs in (``running``). ``admit`` and ``refuse`` are the server's."""

    def __init__(self, sessions: Sessions, admit: Callable[[Mapping[str, str]], str | None], refuse: Callable[[AgentGymError], ASGIApp]) -> None:
        self.sessions, self.admit, self.refuse = sessions, admit, refuse
        speaking = McpServer[Any]("agentgym", on_list_tools=self.listed, on_call_tool=self.called, instructions="Call observe first, then act.")
        checked = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # the server's own admission has looked at host and origin
        self.manager = StreamableHTTPSessionManager(
            speaking, json_response=True, stateless=True, security_settings=checked, max_request_body_size=sessions.bounds.message_bytes
        )
        self.running = self.manager.run()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, if whoever asks may."""
        try:
            key = self.admit({k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]})
            name = scope["path_params"]["session"]
            session = self.sessions.session(name)
            if key is not None and session.key != key:
                raise Unauthorised("this key is for another session")
        except AgentGymError as error:
            await self.refuse(error)(scope, receive, send)
            return
        await self.manager.handle_request({**scope, "agentgym.key": key, "agentgym.session": name}, receive, send)

    def session(self, context: Context) -> Session:
        """The session that a request is for."""
        return self.sessions.session(_of(context, "session"))

    async def listed(self, context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        """The environment's tools, and two of ours; one of the environment's of the same name comes first."""
        own = {t.spec.name: t.spec for t in self.session(context).env.tools.values()}
        told = [Tool(name=t.name, description=t.description, input_schema=t.parameters) for t in own.values()]
        return ListToolsResult(tools=[*told, *(t for t in (OBSERVE, SAY) if t.name not in own)])

    async def called(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        """One action, or a look."""
        session, arguments = self.session(context), dict(params.arguments or {})
        request: p.Request
        if params.name in session.env.tools:
            request = p.Step(session.id, written(params.name, **arguments))
        elif params.name == "observe":
            request = p.Look(session.id)
        elif params.name == "say" and isinstance(arguments.get("text"), str):
            request = p.Step(session.id, arguments["text"])
        else:
            return _told(f"no tool {params.name!r} that takes {sorted(arguments)}", wrong=True)
        try:
            if isinstance(request, p.Step) and not hasattr(session.env, "episode"):
                await self.sessions.serve(p.Look(session.id), _of(context, "key"))
            shown: p.Shown = await self.sessions.serve(request, _of(context, "key"))
        except SessionGone:
            raise
        except AgentGymError as error:
            return _told(str(error), wrong=True)
        over = shown.terminated or shown.truncated
        return _told(f"{shown.observation}\n\n(the episode is over)".strip() if over else shown.observation)


def _told(text: str, wrong: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=wrong)
