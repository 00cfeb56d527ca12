"""The OpenAPI document of the HTTP routes: `GET /openapi.json`."""

from __future__ import annotations

from typing import Any

from asa_engine.assessment import schema
from asa_engine.request import MAX_CHARACTERS
from asa_engine.server.uploads import FILE

__all__ = ["openapi"]

_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
_ERROR = {
    "type": "object",
    "required": ["error", "message", "hint"],
    "properties": {
        "error": {"type": "string", "description": "The kind of error."},
        "message": {"type": "string", "description": "What is wrong, one line."},
        "hint": {"type": "string", "description": "What to do about it."},
        "mend": {"type": "string", "deprecated": True},
        "exit_code": {"type": "integer"},
    },
}
_REFUSALS = {
    "400": "A wrong parameter.",
    "401": "No API key, or one that is not in force.",
    "403": "A page of another site, or a key for other things.",
    "408": "The body did not come in time.",
    "413": "Too many bytes or seconds.",
    "415": "An encoded body, or a form of another kind.",
    "421": "Not the server's name.",
    "422": "Audio that cannot be read.",
    "429": "The API key has as many open as it may, or asks too often.",
    "500": "A fault of the server.",
    "503": "Every place is taken, or the server is shutting down.",
}
_COMMON = ("401", "403", "421", "429")


def openapi(version: str) -> dict[str, Any]:
    """Return the document.

    Args:
        version: Of the engine.
    """
    assessment = _moved(schema())
    score = assessment.pop("$defs")["score"]
    del assessment["$schema"]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "asa_engine",
            "version": version,
            "description": "Scores learners' spoken English. Live speech goes over the WebSockets "
            "/v1/stream and /v1/session, which docs/server.md describes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/assess": {"post": _assess()},
            "/v1/stream": {"get": _stream()},
            "/v1/session": {"get": _session()},
            "/v1/streams/{id}": {
                "parameters": [
                    {
                        "name": "id",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
                    }
                ],
                "get": _kept("find_stream", "What is kept of a stream.", "200"),
                "delete": _kept("delete_stream", "Keep nothing of a stream.", "204"),
            },
            "/v1/health": {"get": _told("health", "What is open, and the limits.", "503")},
            "/v1/graders": {"get": _told("graders", "The bundle being served; all graders.")},
            "/livez": {"get": _told("live", "Whether the process answers.")},
            "/readyz": {"get": _told("ready", "Whether it takes speech.", "503")},
            "/metrics": {
                "get": _shown("metrics", "For Prometheus.", "Text format 0.0.4.", "text/plain")
            },
            "/openapi.json": {"get": _told("openapi", "This document.")},
            "/docs": {"get": _shown("docs", "This document to try out.", "A page.", "text/html")},
        },
        "components": {
            "schemas": {
                "Assessment": assessment,
                "Score": score,
                "Error": _ERROR,
                "Status": _STATUS,
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _moved(node: Any) -> Any:
    """Return a schema whose references point to where the document has it.

    OpenAPI 3.1 takes JSON Schema 2020-12, which the assessment's is.
    """
    if isinstance(node, list):
        return [_moved(item) for item in node]
    if not isinstance(node, dict):
        return node
    places = {"#": "Assessment", "#/$defs/score": "Score"}
    return {
        key: f"#/components/schemas/{places[value]}" if key == "$ref" else _moved(value)
        for key, value in node.items()
    }


def _assess() -> dict[str, Any]:
    texts = {
        "text": "What the learner read, for graders that use it.",
        "prompt": "The task, likewise.",
    }
    forms = {"type": "string", "enum": ["json", "azure", "csv", "textgrid"], "default": "json"}
    return {
        "operationId": "assess",
        "summary": "Score a recording.",
        "parameters": [
            *(
                _parameter(name, what, {"type": "string", "maxLength": MAX_CHARACTERS})
                for name, what in texts.items()
            ),
            _parameter("format", "Form of the answer.", forms),
        ],
        "requestBody": {
            "required": True,
            "description": "The file as it is: WAV, FLAC, Ogg, MP3...",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {"schema": _form(texts, forms)},
            },
        },
        "responses": {
            "200": {
                "description": "The assessment.",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Assessment"}},
                    "text/csv": {},
                    "text/plain": {},
                },
            },
            **_refusals(*_REFUSALS),
        },
    }


def _form(texts: dict[str, str], forms: dict[str, Any]) -> dict[str, Any]:
    fields = {
        name: {"type": "string", "maxLength": MAX_CHARACTERS, "description": what}
        for name, what in texts.items()
    }
    file = {"type": "string", "format": "binary", "description": "The file as it is."}
    return {
        "type": "object",
        "required": [FILE],
        "properties": {FILE: file, **fields, "format": forms},
        "additionalProperties": False,
    }


def _stream() -> dict[str, Any]:
    described = _socket("stream", "Score live speech: a WebSocket.")
    described["parameters"].append(
        _parameter("id", "Makes the stream resumable.", {"type": "string"})
    )
    return described


def _session() -> dict[str, Any]:
    return _socket("session", "Score a session of live responses: a WebSocket.")


def _socket(name: str, summary: str) -> dict[str, Any]:
    rate = {"type": "integer", "minimum": 4000, "maximum": 384_000}
    channels = {"type": "integer", "minimum": 1, "maximum": 8, "default": 1}
    encoding = {"type": "string", "enum": ["s16le", "f32le"], "default": "s16le"}
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [
            {**_parameter("sample_rate_hz", "Of the samples.", rate), "required": True},
            _parameter("channels", "Interleaved.", channels),
            _parameter("format", "Of a sample.", encoding),
        ],
        "responses": {
            "101": {"description": "The WebSocket is open."},
            "426": {"description": "Not opened as a WebSocket.", "content": _error()},
            **_refusals(*_COMMON),
        },
    }


def _kept(name: str, summary: str, code: str) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done."}
    if code == "200":
        kept = {
            "type": "object",
            "required": ["bytes", "finished"],
            "properties": {
                "bytes": {"type": "integer", "minimum": 0},
                "finished": {"type": "boolean"},
                "assessment": {"$ref": "#/components/schemas/Assessment"},
            },
        }
        done["content"] = {"application/json": {"schema": kept}}
    missing = {"404": {"description": "No stream of that id is kept.", "content": _error()}}
    refused = _refusals("400", *_COMMON, "503")
    return {
        "operationId": name,
        "summary": summary,
        "responses": {code: done, **missing, **refused},
    }


def _told(name: str, summary: str, *refusals: str) -> dict[str, Any]:
    ok = {"schema": {"type": "object"}}
    told = {code: {"description": _REFUSALS[code], "content": _status()} for code in refusals}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "OK.", "content": {"application/json": ok}},
            **told,
            **_refusals(*_COMMON),
        },
    }


def _shown(name: str, summary: str, what: str, kind: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": what, "content": {kind: {}}}, **_refusals(*_COMMON)},
    }


def _parameter(name: str, what: str, kind: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": what, "schema": kind}


def _refusals(*codes: str) -> dict[str, Any]:
    return {code: {"description": _REFUSALS[code], "content": _error()} for code in codes}


def _error() -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}


def _status() -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}
