"""Clients of the trigger port that are slow, many, broken, or gone."""

import asyncio
import logging

import pytest

from adapters.door import BAD, GOOD, HOOK, TOKEN, Door
from fakes import until
from sluice.event import Event


async def test_no_more_wait_than_may() -> None:
    """Where http_waits_max wait already the next is accepted and told to look later."""
    async with Door(http_waits_max=1).serving() as door:
        first = asyncio.create_task(
            door.post(f"{HOOK}?wait=60s", headers=GOOD | {"Idempotency-Key": "a"})
        )
        await until(lambda: "a" in door.desk.ends)
        assert (await door.post(f"{HOOK}?wait=60s"))[0] == 202
        door.desk.finish("a")
        assert (await first)[0] == 200


async def test_who_waits_and_goes_makes_room() -> None:
    """A caller that hangs up holds no place; his event goes on."""
    async with Door(http_waits_max=1).serving() as door:
        first = asyncio.create_task(
            door.post(f"{HOOK}?wait=60s", headers=GOOD | {"Idempotency-Key": "a"})
        )
        await until(lambda: door.webhooks._waits)
        first.cancel()
        await until(lambda: not door.webhooks._waits)
        assert "a" in door.desk.events


async def test_who_goes_while_it_is_written_takes_nothing_along() -> None:
    """An event that was on its way to the disk gets there although its caller has hung up."""
    async with Door().serving() as door:
        door.desk.gate.clear()
        request = asyncio.create_task(door.post(headers=GOOD | {"Idempotency-Key": "a"}))
        await until(lambda: door.webhooks._fires)
        request.cancel()
        await until(request.done)
        door.desk.gate.set()
        await until(lambda: "a" in door.desk.events)


async def test_the_end_of_the_port_ends_the_waits() -> None:
    """At SIGTERM who waits is told where to look, and is not cut off."""
    door = Door()
    async with door.serving():
        request = asyncio.create_task(door.post(f"{HOOK}?wait=60s"))
        await until(lambda: door.webhooks._waits)
        door.webhooks._closing.set_result(None)
        assert (await request)[0] == 202
        door.webhooks._closing = asyncio.get_running_loop().create_future()


async def test_a_large_body_is_refused_to_all_alike() -> None:
    """Beyond event_bytes_max nobody is asked who he is, and nothing is read to its end."""
    async with Door(event_bytes_max=1000).serving() as door:
        for path in (HOOK, "/v1/namespaces/team/workflows/other/triggers/hook"):
            assert (await door.post(path, data=b"x" * 1001, headers=BAD))[0] == 413
        head = f"POST {HOOK} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunk = b"200\r\n" + b"x" * 512 + b"\r\n"
        reader, writer = await door.raw(head, chunk, chunk)  # and no end of it
        assert b" 413 " in await reader.readline()
        writer.close()
        assert (await door.post(data=b"x" * 1000))[0] == 202
        assert len(door.desk.events) == 1


async def test_what_is_no_http_is_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A stranger writes nothing into the log, whatever he sends."""
    junk = (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"POST " + HOOK.encode() + b" HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST " + HOOK.encode() + b" HTTP/1.1\r\nAuthorization: " + b"x" * 9000 + b"\r\n\r\n",
        b"POST " + HOOK.encode() + b" HTTP/1.1\r\n" + b"a: b\r\n" * 100 + b"\r\n",
        b"POST " + HOOK.encode() + b" HTTP/1.1\r\nHost: a\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    )  # fmt: skip
    async with Door().serving() as door:
        for sent in junk:
            reader, writer = await door.raw(sent)
            assert b" 400 " in await reader.readline(), sent
            writer.close()
        assert [r for r in caplog.records if r.levelno >= logging.INFO] == []


@pytest.mark.parametrize("sent", [b"", b"POST ", b"POST / HTTP/1.1\r\nHost: a\r\n"])
async def test_who_brings_no_request_is_cut_off(sent: bytes) -> None:
    """A connection that has brought no whole head in time ends without a word."""
    async with Door(http_read_s_max=0.2).serving() as door:
        reader, writer = await door.raw(sent)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_who_brings_no_body_is_told_so() -> None:
    """A body that does not come in time is 408, and the connection ends."""
    head = f"POST {HOOK} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1".encode()
    async with Door(http_read_s_max=0.2).serving() as door:
        reader, writer = await door.raw(head)
        async with asyncio.timeout(20):
            assert b" 408 " in await reader.readline()
            await reader.read()
        writer.close()


async def test_who_takes_no_answer_is_cut_off() -> None:
    """An answer that nobody takes is not held for ever: its connection is free for others."""
    path = f"{HOOK}/executions/a"
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    async with Door(http_read_s_max=0.5, http_connections_max=1).serving() as door:
        await door.desk.fire(Event(kind="http", trigger="hook", id="a"))
        door.desk.finish("a", b"x" * (16 << 20))
        _, writer = await door.raw(request)  # and reads nothing
        await until(lambda: door.answered(200))

        async with asyncio.timeout(20):
            while await door.status() != 202:
                pass
        writer.close()


async def test_bodies_that_are_being_sent_have_a_bound_in_all() -> None:
    """Beyond http_bodies_bytes_max it is 503, whoever asks; what is over counts no more."""
    head = f"POST {HOOK} HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n".encode()
    async with Door(http_bodies_bytes_max=1000).serving() as door:
        _, writer = await door.raw(head)
        await until(lambda: door.webhooks._held)
        assert (await door.post(data=b"x" * 100))[0] == 202
        assert (await door.post(data=b"x" * 101))[0] == 503
        assert (await door.post(data=b"x" * 101, headers=BAD))[0] == 503
        writer.close()
        await until(lambda: not door.webhooks._held)
        assert (await door.post(data=b"x" * 101))[0] == 202


async def test_one_connection_too_many_is_told_so() -> None:
    """Beyond http_connections_max it is 503 at once; a place that is free is given again."""
    async with Door(http_connections_max=2).serving() as door:
        held = [await door.raw() for _ in range(2)]
        status = b""
        async with asyncio.timeout(20):
            while b" 503 " not in status:  # until both are there
                reader, writer = await door.raw()
                status = await reader.readline()
                writer.close()
        assert door.answered(503) >= 1
        held[0][1].close()
        async with asyncio.timeout(20):
            while await door.status() != 202:
                pass
        held[1][1].close()
