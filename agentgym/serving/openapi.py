"""The description of the server, made from the structs of the protocol."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import msgspec

ANSWERS = {"reset": "Shown", "step": "Shown", "end": "Shown", "look": "Shown", "restore": "Shown", "grade": "Verdict", "play": "Played"}


def document(protocol: ModuleType) -> dict[str, Any]:
    """OpenAPI 3.1 of a protocol's requests and answers."""
    requests = protocol.AnyRequest.__args__
    answers = [protocol.Opened, protocol.Shown, protocol.Played, protocol.Refused, protocol.Verdict]
    schemas, components = msgspec.json.schema_components([*requests, *answers], ref_template="#/components/schemas/{name}")
    of = dict(zip([c.__name__ for c in (*requests, *answers)], schemas, strict=True))
    refused = {"description": "refused; the error says why", "content": {"application/json": {"schema": of["Refused"]}}}

    there = [{"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}]

    def operation(cls: type, answer: str | None, *, session: bool) -> dict[str, Any]:
        good = {"schema": of[answer]} if answer else {}
        return {
            "summary": (inspect.getdoc(cls) or "").partition("\n")[0],
            "parameters": there if session else [],
            "requestBody": {"content": {"application/json": {"schema": of[cls.__name__]}}},
            "responses": {"200": {"description": "done", "content": {"application/json": good}}, "default": refused},
        }

    paths: dict[str, Any] = {"/sessions": {"post": operation(protocol.Open, "Opened", session=False)}}
    for cls in requests:
        tag = str(cls.__struct_config__.tag)
        if cls is protocol.Close:
            done = {"summary": "End the session.", "responses": {"200": {"description": "done"}, "default": refused}}
            paths["/sessions/{session}"] = {
                "delete": {**done, "parameters": [{"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}]}
            }
        elif cls not in (protocol.Offer, protocol.Open):
            paths[f"/sessions/{{session}}/{tag}"] = {"post": operation(cls, ANSWERS.get(tag), session=True)}
    paths["/environments"] = {"get": {"summary": "What is served.", "responses": {"200": {"description": "a list"}, "default": refused}}}
    paths["/health"] = {"get": {"summary": "Whether it is there.", "security": [], "responses": {"200": {"description": "it is"}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentgym", "version": str(protocol.VERSION), "description": inspect.getdoc(protocol)},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearer": []}],
    }
