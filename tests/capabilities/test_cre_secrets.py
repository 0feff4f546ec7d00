"""Secrets that a CRE workflow asks for: named in its spec, read for the call, and never told."""

import asyncio
import logging

import pytest

from capabilities.asked import MemoryVault, asking
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.sdk_pb2 import SecretResponse
from sluice.errors import SourceUnavailable
from sluice.reasons import Reason


def _listed(id_: str, key: str, **more: object) -> dict[str, object]:
    listed: dict[str, object] = {"id": id_, "secretKeyRef": {"name": "api", "key": key}}
    return listed | more


_SECRETS = [_listed("A", "a"), _listed("A", "b", namespace="other"), _listed("C", "c")]


def _vault() -> MemoryVault:
    return MemoryVault(api={"a": b"hunter2", "b": "größe".encode(), "c": b"\xff"})


async def test_a_secret_is_found_by_its_id_and_namespace() -> None:
    """A namespace that is not given is main; the owner is the workflow's own namespace."""
    vault = _vault()
    async with asking(vault) as operator:
        execution = operator.execution(secrets=_SECRETS)
        found = await execution.secrets(("A", ""), ("A", "other"), ("A", "main"))
    assert [r.secret.value for r in found] == ["hunter2", "größe", "hunter2"]
    assert [r.secret.namespace for r in found] == ["main", "other", "main"]
    assert {(r.secret.id, r.secret.owner) for r in found} == {("A", "team")}
    assert vault.reads == [("team", "api", "a"), ("team", "api", "b"), ("team", "api", "a")]


async def test_nothing_is_kept_for_the_next_call() -> None:
    """A Secret that was changed is what it is now; one that was deleted is gone."""
    vault = _vault()
    async with asking(vault) as operator:
        execution = operator.execution(secrets=_SECRETS)
        await execution.secrets(("A", ""))
        vault.fault = SourceUnavailable(Reason.SECRET_NOT_FOUND, "Secret api is not there")
        [response] = await execution.secrets(("A", ""))
    assert response.error.error == (
        'secret "A" in namespace "main" cannot be read: Secret api is not there'
    )


@pytest.mark.parametrize(
    ("id_", "namespace", "error"),
    [
        ("B", "", 'secret "B" in namespace "main" is not there; list it in the workflow\'s '
                  "spec.cre.secrets"),
        ("A", "third", 'secret "A" in namespace "third" is not there; list it in the workflow\'s '
                       "spec.cre.secrets"),
        ("C", "", 'secret "C" in namespace "main" is no UTF-8 text'),
    ],
)  # fmt: skip
async def test_a_secret_that_cannot_be_given(id_: str, namespace: str, error: str) -> None:
    """Is an error in its place, and the others are given."""
    async with asking(_vault()) as operator:
        execution = operator.execution(secrets=_SECRETS)
        refused, given = await execution.secrets((id_, namespace), ("A", ""))
    assert refused.error.error == error
    assert (refused.error.id, refused.error.namespace) == (id_, namespace or "main")
    assert refused.error.owner == "team"
    assert given.secret.value == "hunter2"


async def test_what_the_spec_does_not_name_is_not_even_looked_for() -> None:
    """A guest cannot find out which Secrets there are."""
    vault = _vault()
    async with asking(vault) as operator:
        await operator.execution().secrets(("A", ""), ("api", ""), ("../api", ""))
    assert vault.reads == []


@pytest.mark.parametrize("size", [2048, 2049])
async def test_a_secret_has_a_bound(size: int) -> None:
    """2 KiB are given; one byte more is an error that tells none of them."""
    vault = MemoryVault(api={"a": b"x" * size})
    async with asking(vault) as operator:
        [response] = await operator.execution(secrets=_SECRETS).secrets(("A", ""))
    if size > 2048:
        assert response.error.error.endswith("is too large; at most 2,048 bytes are given")
    else:
        assert len(response.secret.value) == size


@pytest.mark.parametrize("size", [1024, 1025])
async def test_the_secrets_of_one_call_have_a_bound(size: int) -> None:
    """27 KiB in all; what is beyond is an error in its place, and does not count."""
    vault = MemoryVault(api={"a": b"x" * 1024, "b": b"y" * size})
    async with asking(vault) as operator:
        execution = operator.execution(secrets=_SECRETS)
        found = await execution.secrets(*[("A", "")] * 26, ("A", "other"), ("A", "main"))
    values = [response.HasField("secret") for response in found[:26]]
    assert all(values)
    last, small = found[26:]
    if size > 1024:
        assert last.error.error == "the secrets of one call have at most 27,648 bytes"
        assert small.secret.value == "x" * 1024
    else:
        assert last.secret.value == "y" * 1024
        assert small.HasField("error")


@pytest.mark.parametrize("count", [100, 101])
async def test_so_many_secrets_may_be_asked_for_in_one_call(count: int) -> None:
    """One more, and the whole call fails."""
    async with asking(_vault()) as operator:
        execution = operator.execution(secrets=_SECRETS)
        if count > 100:
            with pytest.raises(CapabilityError, match="101 secrets in one call; at most 100"):
                await execution.secrets(*[("B", "")] * count)
        else:
            assert len(await execution.secrets(*[("B", "")] * count)) == count


async def test_an_execution_has_five_calls_for_secrets() -> None:
    """The sixth fails as a whole; calls of capabilities are counted apart."""
    async with asking(_vault()) as operator:
        execution = operator.execution(secrets=_SECRETS)
        for _ in range(5):
            await execution.secrets(("A", ""))
        with pytest.raises(CapabilityError, match="5 calls of Secrets") as told:
            await execution.secrets(("A", ""))
        assert told.value.code is Code.LIMIT_EXCEEDED
        assert len(await operator.execution(secrets=_SECRETS).secrets(("A", ""))) == 1


async def test_a_vault_that_does_not_answer_is_given_up() -> None:
    """A guest does not wait for the API server for ever."""
    vault = _vault()
    vault.gate.clear()
    async with asking(vault, cre_call_s_max=0.02) as operator:
        with pytest.raises(CapabilityError, match=r"no answer in 0\.02 s"):
            await operator.execution(secrets=_SECRETS).secrets(("A", ""))


async def test_no_secret_is_ever_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Not when it is given, not when it is refused, not when we fail while we hold it."""
    caplog.set_level(logging.DEBUG)
    vault = MemoryVault(api={"a": b"hunter2", "b": b"hunter2" * 1000, "c": b"hunter2\xff"})
    async with asking(vault) as operator:
        execution = operator.execution(secrets=_SECRETS)
        told = await execution.secrets(("A", ""), ("A", "other"), ("C", ""))
        vault.fault = ZeroDivisionError()
        with pytest.raises(CapabilityError, match="its log tells why"):
            await execution.secrets(("A", ""))
    errors = [r.error.error for r in told if r.HasField("error")]
    assert len(errors) == 2
    assert "hunter2" not in caplog.text + "".join(errors)


async def test_answers_come_in_the_order_of_the_requests() -> None:
    """Two calls at once do not mix."""
    async with asking(_vault()) as operator:
        execution = operator.execution(secrets=_SECRETS)
        one, two = await asyncio.gather(
            execution.secrets(("A", ""), ("A", "other")), execution.secrets(("A", "other"))
        )

    def values(found: list[SecretResponse]) -> list[str]:
        return [response.secret.value for response in found]

    assert (values(one), values(two)) == (["hunter2", "größe"], ["größe"])
