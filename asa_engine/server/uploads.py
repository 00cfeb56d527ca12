"""The body of an upload: the file as it is, or a form that holds it.

Either is bounded in bytes and in time; a form also in parts, headers and the length of its fields.
All of it is in memory, never on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from asa_engine.request import MAX_CHARACTERS
from asa_engine.server.refusal import BadRequest, TooLarge, TooSlow, WrongMediaType
from asa_engine.server.watch import Patience, Watch

__all__ = ["FIELDS", "FILE", "HINT", "Upload", "check_headers", "read_upload"]

FILE: Final = "file"
FIELDS: Final = ("format", "prompt", "text")
HINT: Final = "curl --data-binary @answer.flac sends a file, curl -F file=@answer.flac a form"
LEAST_BYTES_PER_S: Final = 4096  # of a body, on average: less than any phone's uplink
FORM_BYTES: Final = 2**18  # what a form may be longer than its file: fields, headers, boundaries
_FIELD_BYTES: Final = 4 * MAX_CHARACTERS
_FORM: Final = "multipart/form-data"
_FORM_HINT: Final = f"a form has one {FILE!r} and, where they are needed, {', '.join(FIELDS)}"


@dataclass(frozen=True, slots=True)
class Upload:
    """What came.

    Attributes:
        data: Bytes of the file.
        fields: The form's other fields; none where the file came as it is.
    """

    data: bytes
    fields: dict[str, str] = field(default_factory=dict)


def check_headers(request: Request, most_bytes: int) -> None:
    """Check what is known before the body.

    Raises:
        TooLarge: It says that it is.
        WrongMediaType: It is encoded, or a form of another kind.
    """
    kind = _media_type(request)
    if kind.startswith("multipart/") and kind != _FORM:
        raise WrongMediaType(f"{kind[:100]!r} is not taken", hint=HINT)
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise WrongMediaType(
            f"the body has the encoding {encoding[:100]!r}",
            hint="send the file as it is; FLAC or Ogg make it smaller",
        )
    length = request.headers.get("Content-Length", "0")
    if length.isdigit() and int(length) > most_bytes + FORM_BYTES * (kind == _FORM):
        raise _too_large(most_bytes)


async def read_upload(
    request: Request, watch: Watch, *, most_bytes: int, idle_s: float, most_s: float
) -> Upload:
    """Read the body.

    Args:
        request: Whose headers were checked.
        watch: The clock that the client is judged by.
        most_bytes: Longest file taken.
        idle_s: Longest silence.
        most_s: Longest the whole may take.

    Raises:
        BadRequest: A form that cannot be read, or holds other things.
        ConnectionError: The client is gone.
        TooLarge: It is longer than is taken.
        TooSlow: It did not come in time.
    """
    async with _in_time(watch, idle_s, most_s) as patience:
        if _media_type(request) == _FORM:
            stream = _bounded(request, patience, most_bytes, most_bytes + FORM_BYTES)
            return await _form(request, stream, most_bytes)
        body = bytearray()
        async for part in _bounded(request, patience, most_bytes, most_bytes):
            body += part
        return Upload(bytes(body))


@contextlib.asynccontextmanager
async def _in_time(watch: Watch, idle_s: float, most_s: float) -> AsyncIterator[Patience]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(most_s) as limit:
            with Patience(watch, idle_s, lambda: limit.reschedule(loop.time())) as patience:
                yield patience
    except ClientDisconnect:
        raise ConnectionResetError from None
    except TimeoutError:
        raise TooSlow("the body did not come in time", hint="send it again") from None


async def _bounded(
    request: Request, patience: Patience, told_bytes: int, most_bytes: int
) -> AsyncGenerator[bytes, None]:
    total = 0
    async for part in request.stream():
        total += len(part)
        if total > most_bytes:
            raise _too_large(told_bytes)
        if part:
            patience.heard(len(part) / LEAST_BYTES_PER_S)
        yield part


class _InMemory(MultiPartParser):
    """Starlette's parser, whose files stay in memory and whose fields are UTF-8."""

    spool_max_size = 0  # the standard library's word for no file, whatever the length

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            try:
                part.data.decode("utf-8")
            except UnicodeDecodeError:
                raise MultiPartException(f"{part.field_name!r} is not UTF-8") from None
        super().on_part_end()

    def close(self) -> None:
        """Let go of the files; Starlette does not of those that a form breaks off in."""
        for file in self._files_to_close_on_error:
            file.close()


async def _form(request: Request, stream: AsyncGenerator[bytes, None], most_bytes: int) -> Upload:
    parser = _InMemory(
        request.headers,
        stream,
        max_files=1,
        max_fields=len(FIELDS),
        max_part_size=_FIELD_BYTES,
    )
    data: bytes | None = None
    fields: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(parser.close)
        try:
            form = await parser.parse()
        except MultiPartException as failure:
            told = f"the form cannot be read: {failure.message}"[:300]
            raise BadRequest(told, hint=_FORM_HINT) from None
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) and name == FILE:
                data = await value.read()
            elif isinstance(value, str) and name in FIELDS and name not in fields:
                fields[name] = value
            else:
                what = "a file" if isinstance(value, UploadFile) else "a field"
                raise BadRequest(f"the form has {what} {name[:100]!r}", hint=_FORM_HINT)
    if data is None:
        raise BadRequest("the form has no file", hint=_FORM_HINT)
    if len(data) > most_bytes:
        raise _too_large(most_bytes)
    return Upload(data, fields)


def _media_type(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {most} bytes",
        hint="send FLAC instead of WAV, cut it into parts, or stream it",
    )
