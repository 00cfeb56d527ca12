"""The page of `GET /docs` in Chromium: what it lists, and that its forms get the API's answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, Page, chromium
from server_client import Client, agree

from asa_engine.server.keys import new_key
from asa_engine.server.openapi import openapi

SPEECH = Path(__file__).parents[2] / "examples/audio/demo.flac"
OPERATIONS = [
    (path, method)
    for path, operations in openapi("1")["paths"].items()
    for method in operations
    if method != "parameters"
]
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not here")


def test_the_page_is_one_answer_that_nothing_can_be_slipped_into(with_server: Any) -> None:
    async def scenario(client: Client) -> None:
        async with client.get("/docs") as response:
            page, policy = await response.text(), response.headers["Content-Security-Policy"]
            assert response.content_type == "text/html"
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "http://" not in page
        assert "https://" not in page
        async with client.get("/docs", headers={"Host": "evil.example"}) as response:
            assert response.status == 421

    with_server(scenario)


def _choose(page: Page, form: str, path: Path) -> None:
    """Choose a file as a person does."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    selector = f"#{form} input[type=file]"
    found = page.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    page.call("DOM.setFileInputFiles", files=[str(path)], nodeId=found)


def _sent(page: Page, form: str) -> tuple[str, str]:
    """Send a form; return status and body of the answer as they are shown."""
    page.value(f"document.querySelector('#{form} form').requestSubmit()")
    page.wait(f"document.querySelector('#{form} pre.body')")
    status = page.value(f"document.querySelector('#{form} [role=status] b').textContent")
    return status.strip(), page.value(f"document.querySelector('#{form} pre.body').textContent")


@in_chromium
def test_its_forms_get_the_answers_of_the_api(with_server: Any, tmp_path: Path) -> None:
    key, line = new_key("page")

    def look(client: Client) -> list[str]:
        with chromium(tmp_path / "profile") as page:
            page.call("Page.navigate", url=f"{client.server.url}/docs")
            page.wait("document.querySelector('#assess')")
            listed = "[...document.querySelectorAll('#operations > details > summary')].map("
            listed += "(each) => [each.children[1].textContent, each.children[0].textContent])"
            told = [(path, method.lower()) for path, method in page.value(listed)]
            assert sorted(told) == sorted(OPERATIONS)
            _choose(page, "assess", SPEECH)
            assert _sent(page, "assess")[0] == "401"
            page.value(f"document.getElementById('key').value = {json.dumps(key)}")
            answers = []
            for kind in ("application/octet-stream", "multipart/form-data"):
                choice = "const s = [...document.querySelectorAll('#assess select')]"
                choice += f".find((each) => [...each.options].some((o) => o.value === '{kind}'));"
                page.value(f"{{{choice} s.value = '{kind}'; s.dispatchEvent(new Event('change'))}}")
                _choose(page, "assess", SPEECH)
                status, body = _sent(page, "assess")
                assert status == "200", body
                answers.append(body)
            page.value("document.querySelector('#find_stream input').value = 'a'.repeat(16)")
            assert _sent(page, "find_stream")[0] == "404"
            assert page.asked
            own = (client.server.url, "data:,")
            assert [each for each in page.asked if not each.startswith(own)] == []
            # What the console holds is the two refusals.
            assert [c for c in page.complaints if "401" not in c and "404" not in c] == []
            return answers

    async def scenario(client: Client) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with client.assess(SPEECH.read_bytes(), headers=headers) as response:
            expected = await response.json()
        for answer in await asyncio.to_thread(look, client):
            agree(json.loads(answer), expected)

    with_server(scenario, keys=line)
