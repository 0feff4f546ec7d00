from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from sluice.adapters.http import serving
from sluice.errors import EngineRefused
from sluice.metrics import Metrics


@asynccontextmanager
async def probes(*, ready: list[bool]) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    async with (
        serving("127.0.0.1", 0, Metrics().registry, lambda: ready[0], lambda: {"a": 1}) as port,
        aiohttp.ClientSession() as session,
    ):
        yield f"http://127.0.0.1:{port}", session


async def test_alive_is_not_ready() -> None:
    """/healthz answers from the first moment, /readyz says no until the workflows are listed."""
    ready = [False]
    async with probes(ready=ready) as (url, session):
        for path, status in (("healthz", 200), ("readyz", 503)):
            assert (await session.get(f"{url}/{path}")).status == status
        ready[0] = True
        assert (await session.get(f"{url}/readyz")).status == 200


async def test_status_is_told_on_this_machine() -> None:
    """/status has the overview as JSON for whoever asks from inside the pod."""
    async with probes(ready=[True]) as (url, session):
        assert await (await session.get(f"{url}/status")).json() == {"a": 1}


@pytest.mark.parametrize(("accept", "content_type", "end"), [
    ("text/plain", "text/plain", ""),
    ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", "# EOF\n"),
])  # fmt: skip
async def test_metrics_in_both_formats(accept: str, content_type: str, end: str) -> None:
    """Prometheus gets the format that it asks for, and every metric is there at 0."""
    async with probes(ready=[True]) as (url, session):
        answer = await session.get(f"{url}/metrics", headers={"Accept": accept})
        text = await answer.text()
    assert answer.content_type == content_type
    assert 'sluice_workflows{state="ready"} 0.0' in text
    assert text.endswith(end)


async def test_nothing_else_is_answered() -> None:
    """There is no page to be found by guessing, and no way to write."""
    async with probes(ready=[True]) as (url, session):
        assert (await session.get(f"{url}/")).status == 404
        assert (await session.post(f"{url}/metrics")).status == 405


async def test_a_taken_port_is_one_line() -> None:
    """A second operator on the port says so and where, and the first goes on."""
    metrics = Metrics()
    async with serving("127.0.0.1", 0, metrics.registry, lambda: True, dict) as port:
        with pytest.raises(EngineRefused, match=f"cannot listen on 127.0.0.1:{port}") as refused:
            async with serving("127.0.0.1", port, metrics.registry, lambda: True, dict):
                pass
        assert "\n" not in refused.value.message


async def test_an_address_of_another_machine_is_one_line() -> None:
    """An address that is not ours is told as such."""
    with pytest.raises(EngineRefused, match=r"cannot listen on 192\.0\.2\.1:8080"):
        async with serving("192.0.2.1", 8080, Metrics().registry, lambda: True, dict):
            pass
