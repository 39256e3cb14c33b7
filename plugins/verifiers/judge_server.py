"""A judge behind a server that speaks OpenAI's chat completions. Whatever goes wrong there makes a verdict missing."""

from __future__ import annotations

import functools
import json
import os
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from ..models.replies import Reply

_LONGEST = 1 << 20
"""The largest number of bytes of an answer of the server."""
_AGAIN = frozenset({408, 409, 425, 429})
"""Codes after which it is asked again, beside those from 500."""
_PAUSE_S = 0.5
"""The time in seconds before the second try; it doubles with each further one."""


def ask(
    url: str, key: str, model: str, prompt: str, max_tokens: int, timeout: float, tries: int, concurrency: int
) -> Reply:
    """Ask the server for a completion, again if it is down, busy or fails, for at most ``timeout`` seconds in all.

    Args:
        url: its address, as far as ``/v1``.
        key: its key; empty for none.
        model: the name of the model there.
        prompt: the message of the user.
        max_tokens: the largest number of tokens of the completion.
        timeout: seconds.
        tries: the largest number of requests.
        concurrency: the number of connections that are kept.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    session, deadline = _session(os.getpid(), concurrency), time.monotonic() + timeout
    reply = Reply()
    for number in range(tries):
        pause = _PAUSE_S * 2 ** (number - 1) if number else 0.0
        if time.monotonic() + pause >= deadline:
            break
        time.sleep(pause)
        reply, again = _asked_once(session, f"{url.rstrip('/')}/chat/completions", key, body, deadline)
        if not again:
            break
    return reply


def _asked_once(session: requests.Session, url: str, key: str, body: Any, deadline: float) -> tuple[Reply, bool]:
    """Return the reply, and whether another try may bring one."""
    left = max(deadline - time.monotonic(), 1e-3)
    try:
        with session.post(url, json=body, auth=_Key(key), timeout=left, stream=True, allow_redirects=False) as response:
            code = response.status_code
            if code != 200:
                return Reply(missing=f"the server answers with code {code}"), code in _AGAIN or code >= 500
            content = _content(response, deadline)
    except TimeoutError:
        return Reply(missing="the server has not answered in time"), False
    except (requests.Timeout, ReadTimeoutError):
        return Reply(missing="the server has not answered in time"), True
    except (requests.RequestException, HTTPError, OSError) as error:
        # not the text of the error, which may hold what was sent
        return Reply(missing=f"the server cannot be reached, or hangs up ({type(error).__name__})"), True
    return _reply(content), False


def _content(response: requests.Response, deadline: float) -> bytes:
    """Return the body, and at most its beginning if it is too long. Raises TimeoutError after the deadline."""
    content = bytearray()
    # whatever has come: requests' own reading waits until a part is whole, however slowly it comes
    while len(content) <= _LONGEST and (part := response.raw.read1(1 << 16, decode_content=True)):
        content += part
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(content)


def _reply(content: bytes) -> Reply:
    """Read a completion."""
    try:
        choice = json.loads(content)["choices"][0]["message"]
        text, refusal = choice.get("content"), choice.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reply(missing="the server's answer is no chat completion")
    if refusal or not isinstance(text, str):
        return Reply(missing="the model refuses to answer" if refusal else "the server's answer holds no text")
    return Reply(text)


class _Key(requests.auth.AuthBase):
    """Sends the key, or none; without it, requests would send one that it finds for the host in ``~/.netrc``."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


@functools.lru_cache(8)
def _session(process: int, concurrency: int) -> requests.Session:
    """Return the connections of this process; a fork needs its own."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=concurrency, pool_block=False))
    return session
