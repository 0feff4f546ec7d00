"""Reads of a chain that py-evm runs, through JSON-RPC on loopback."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message

from capabilities.chain import TOPIC, Chain
from sluice.adapters.rpc import Endpoints
from sluice.capabilities.evm import endpoints, evm_capabilities
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto import evm_pb2 as pb
from sluice.cre.proto.values_pb2 import BigInt
from sluice.cre.values import big as number
from sluice.cre.values import small as value
from sluice.errors import EngineRefused
from sluice.metrics import Metrics
from sluice.settings import Settings

SELECTOR = 16015286601757825753
ID = f"evm:ChainSelector:{SELECTOR}@1.0.0"
NOBODY: Any = None  # who calls makes no difference to a read


@dataclass
class Reader:
    """A guest's side of the capability, on a chain."""

    chain: Chain
    url: str
    settings: Settings

    async def ask(self, method: str, request: Message, reply: Any = None) -> Any:
        payload = Packed()
        payload.Pack(request)
        async with aclosing(Endpoints(self.settings, Metrics())) as endpoints:
            (capability,) = evm_capabilities(self.settings, endpoints.post)
            assert capability.id == ID
            answer = await capability.call(method, payload, NOBODY)
        assert answer.Unpack(reply)
        return reply

    async def refusal(self, method: str, request: Message) -> CapabilityError:
        with pytest.raises(CapabilityError) as caught:
            await self.ask(method, request)
        assert "s3cret" not in str(caught.value)
        return caught.value

    async def logs(self, **query: Any) -> list[pb.Log]:
        request = pb.FilterLogsRequest(filter_query=pb.FilterQuery(**query))
        return list((await self.ask("FilterLogs", request, pb.FilterLogsReply())).logs)


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain()


@pytest.fixture
async def reader(chain: Chain) -> AsyncIterator[Reader]:
    chain.answer = None
    async with chain.serving() as url:
        yield Reader(chain, url, Settings(cre_evm_rpc=f"{SELECTOR}={url}", cre_evm_blocks_max=5))


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


async def test_a_contract_is_called(reader: Reader) -> None:
    """What the contract returns comes back as its bytes."""
    call = pb.CallMsg(to=raw(reader.chain.contract))
    reply = await reader.ask(
        "CallContract", pb.CallContractRequest(call=call), pb.CallContractReply()
    )
    assert reply.data == (42).to_bytes(32)


async def test_a_contract_that_reverts_is_its_callers_matter(reader: Reader) -> None:
    """A revert is told apart from an endpoint that is ill."""
    call = pb.CallMsg(to=raw(reader.chain.contract), data=b"\x01")
    error = await reader.refusal("CallContract", pb.CallContractRequest(call=call))
    assert error.code is Code.FAILED_PRECONDITION
    assert "revert" in error.message


@pytest.mark.parametrize("block", [None, 0, -2])
async def test_a_balance_is_read_at_a_block(reader: Reader, block: int | None) -> None:
    """Of the latest block by default, or of the one that is named, as whole wei."""
    account = raw(reader.chain.other)
    request = pb.BalanceAtRequest(account=account)
    if block is not None:
        request.block_number.CopyFrom(number(block))
    reply = await reader.ask("BalanceAt", request, pb.BalanceAtReply())
    at: Any = "latest" if block in {None, -2} else block
    assert value(reply.balance) == reader.chain.tester.get_balance(reader.chain.other, at) > 10**20


async def test_gas_is_estimated(reader: Reader) -> None:
    """A transfer takes 21,000."""
    message = pb.CallMsg(to=raw(reader.chain.other), **{"from": raw(reader.chain.account)})
    request = pb.EstimateGasRequest(msg=message)
    reply = await reader.ask("EstimateGas", request, pb.EstimateGasReply())
    assert 21_000 <= reply.gas < 22_000


async def test_a_header_is_read_by_number_and_by_word(reader: Reader) -> None:
    """The header of block 1, of the latest block, and its parent's hash."""
    first = await reader.ask(
        "HeaderByNumber",
        pb.HeaderByNumberRequest(block_number=number(1)),
        pb.HeaderByNumberReply(),
    )
    known = reader.chain.tester.get_block_by_number(1)
    assert value(first.header.block_number) == 1
    assert first.header.hash == raw(known["hash"])
    assert first.header.parent_hash == raw(known["parent_hash"])
    assert first.header.timestamp == known["timestamp"]
    await reader.ask(
        "HeaderByNumber",
        pb.HeaderByNumberRequest(block_number=number(-3)),
        pb.HeaderByNumberReply(),
    )
    assert reader.chain.asked[-1] == ("eth_getBlockByNumber", ["finalized", False])


async def test_a_transaction_and_its_receipt_are_read(reader: Reader) -> None:
    """What was sent, what became of it, and the log that the contract left in it."""
    sent = reader.chain.send(to=reader.chain.contract, value=0)
    found = await reader.ask(
        "GetTransactionByHash",
        pb.GetTransactionByHashRequest(hash=raw(sent)),
        pb.GetTransactionByHashReply(),
    )
    assert found.transaction.hash == raw(sent)
    assert found.transaction.to == raw(reader.chain.contract)
    assert value(found.transaction.gas_price) == 10**10
    reply = await reader.ask(
        "GetTransactionReceipt",
        pb.GetTransactionReceiptRequest(hash=raw(sent)),
        pb.GetTransactionReceiptReply(),
    )
    known = reader.chain.tester.get_transaction_receipt(sent)
    assert reply.receipt.status == 1
    assert reply.receipt.gas_used == known["gas_used"]
    assert value(reply.receipt.block_number) == known["block_number"]
    (log,) = reply.receipt.logs
    assert (log.topics[0], log.event_sig, log.data) == (raw(TOPIC), raw(TOPIC), (7).to_bytes(32))


async def test_a_deployment_tells_the_contracts_address(reader: Reader) -> None:
    """The receipt of a transaction that made a contract has its address, and no receiver."""
    wanted = raw(reader.chain.deployment)
    reply = await reader.ask(
        "GetTransactionReceipt",
        pb.GetTransactionReceiptRequest(hash=wanted),
        pb.GetTransactionReceiptReply(),
    )
    assert reply.receipt.contract_address == raw(reader.chain.contract)
    found = await reader.ask(
        "GetTransactionByHash",
        pb.GetTransactionByHashRequest(hash=wanted),
        pb.GetTransactionByHashReply(),
    )
    assert found.transaction.to == b""


@pytest.mark.parametrize(
    "request_",
    [
        pb.GetTransactionByHashRequest(hash=b"\x11" * 32),
        pb.GetTransactionReceiptRequest(hash=b"\x11" * 32),
    ],
)
async def test_what_is_not_there_is_not_found(reader: Reader, request_: Message) -> None:
    """A transaction that nobody sent is NotFound, and the text has its hash."""
    method = request_.DESCRIPTOR.name.removesuffix("Request")
    error = await reader.refusal(method, request_)
    assert error.code is Code.NOT_FOUND
    assert "11" * 32 in error.message


async def test_logs_are_filtered(reader: Reader) -> None:
    """By address, topic and range, and by the hash of a block."""
    sent = reader.chain.send(to=reader.chain.contract, value=0)
    block = reader.chain.tester.get_transaction_receipt(sent)["block_number"]
    range_ = {"from_block": number(block), "to_block": number(block)}
    address = raw(reader.chain.contract)
    (log,) = await reader.logs(addresses=[address], **range_)
    assert (log.address, log.tx_hash, value(log.block_number)) == (address, raw(sent), block)
    topics = [pb.Topics(topic=[raw(TOPIC)])]
    assert await reader.logs(topics=topics, **range_) == [log]
    assert await reader.logs(topics=[pb.Topics(topic=[b"\x01" * 32])], **range_) == []
    assert await reader.logs(block_hash=log.block_hash) == [log]


async def test_logs_are_looked_for_in_so_many_blocks_and_no_more(reader: Reader) -> None:
    """A range of five is looked in where five are allowed, and one of six is not."""
    for _ in range(6):
        reader.chain.send(to=reader.chain.other, value=1)
    newest = reader.chain.tester.get_block_by_number("latest")["number"]
    fits = {"from_block": number(newest - 4), "to_block": number(-2)}
    assert await reader.logs(**fits) == []
    more = pb.FilterQuery(from_block=number(newest - 5), to_block=number(-2))
    error = await reader.refusal("FilterLogs", pb.FilterLogsRequest(filter_query=more))
    assert error.code is Code.LIMIT_EXCEEDED
    assert "has 6 blocks, but at most 5" in error.message


@pytest.mark.parametrize(
    ("method", "request_", "words"),
    [
        ("BalanceAt", pb.BalanceAtRequest(account=b"\x01" * 19), "account has 19 bytes"),
        (
            "BalanceAt",
            pb.BalanceAtRequest(
                account=b"\x01" * 20, block_number=BigInt(abs_val=b"\x07", sign=-1)
            ),
            "block -7 is none",
        ),
        ("CallContract", pb.CallContractRequest(call=pb.CallMsg(to=b"\x01")), "to has 1 bytes"),
        ("GetTransactionByHash", pb.GetTransactionByHashRequest(), "hash has 0 bytes"),
        (
            "FilterLogs",
            pb.FilterLogsRequest(filter_query=pb.FilterQuery(topics=[pb.Topics()] * 5)),
            "there are 5 topics",
        ),
        (
            "FilterLogs",
            pb.FilterLogsRequest(
                filter_query=pb.FilterQuery(
                    block_hash=b"\x01" * 32, from_block=BigInt(abs_val=b"\x01", sign=1)
                )
            ),
            "a block's hash and a range",
        ),
    ],
)
async def test_a_request_that_cannot_be_meant_is_refused(
    reader: Reader, method: str, request_: Message, words: str
) -> None:
    """What has the wrong length or contradicts itself never reaches the endpoint."""
    before = len(reader.chain.asked)
    error = await reader.refusal(method, request_)
    assert error.code is Code.INVALID_ARGUMENT
    assert words in error.message
    assert len(reader.chain.asked) == before


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("WriteReport", "writing to a chain is not supported yet"),
        ("LogTrigger", "triggers of logs on a chain are not supported yet"),
        ("Mint", 'there is no method "Mint"'),
    ],
)
async def test_writing_is_refused_in_a_sentence(reader: Reader, method: str, words: str) -> None:
    """What is not there yet is Unimplemented, and says what there is instead."""
    error = await reader.refusal(method, pb.BalanceAtRequest())
    assert error.code is Code.UNIMPLEMENTED
    assert words in error.message


@pytest.mark.parametrize(("size", "taken"), [(5 * 1024, True), (5 * 1024 + 1, False)])
async def test_a_request_has_five_kilobytes_at_most(reader: Reader, size: int, taken: bool) -> None:
    """A call of 5 KB is sent; one byte more is refused before it is."""
    to = raw(reader.chain.other)
    call = pb.CallContractRequest(call=pb.CallMsg(to=to))
    call.call.data = bytes(size - call.ByteSize() - 4)
    assert call.ByteSize() == size
    if taken:
        reply = await reader.ask("CallContract", call, pb.CallContractReply())
        assert reply.data == b""
    else:
        assert (await reader.refusal("CallContract", call)).code is Code.LIMIT_EXCEEDED


@pytest.mark.parametrize(
    "answer",
    [b"", b"no", b"[]", b'{"result": 7}', b'{"error": {"message": "busy"}}', b'{"error": "x"}',
     b'{"result": "0xzz"}', b"[" * 100_000],
)  # fmt: skip
async def test_an_endpoint_that_talks_nonsense_is_unavailable(
    reader: Reader, answer: bytes
) -> None:
    """Whatever an endpoint answers, the guest gets an error of a capability and no crash."""
    reader.chain.answer = answer
    error = await reader.refusal("BalanceAt", pb.BalanceAtRequest(account=b"\x01" * 20))
    assert error.code is Code.UNAVAILABLE


async def test_an_endpoint_that_is_away_is_unavailable(reader: Reader) -> None:
    """No answer is told of without the URL, which may hold a key."""
    gone = f"{SELECTOR}=http://127.0.0.1:1/key-s3cret"
    away = Reader(reader.chain, "", Settings(cre_evm_rpc=gone))
    error = await away.refusal("BalanceAt", pb.BalanceAtRequest(account=b"\x01" * 20))
    assert error.code is Code.UNAVAILABLE


async def test_an_answer_has_a_bound(reader: Reader) -> None:
    """An answer that is longer than allowed is not read to its end."""
    reader.chain.answer = b'{"result": "0x1"}' + b" " * 100
    exact = Settings(cre_evm_rpc=f"{SELECTOR}={reader.url}", cre_evm_answer_bytes_max=117)
    fits = Reader(reader.chain, reader.url, exact)
    request = pb.BalanceAtRequest(account=b"\x01" * 20)
    assert value((await fits.ask("BalanceAt", request, pb.BalanceAtReply())).balance) == 1
    reader.chain.answer += b" "
    assert "more than 117 bytes" in (await fits.refusal("BalanceAt", request)).message


@pytest.mark.parametrize(
    "text", ["x=http://a", "1", "1=ftp://a", f"{1 << 64}=http://a", "=http://a"]
)
def test_a_setting_that_cannot_be_read_is_told_of_at_the_start(text: str) -> None:
    """The admin is shown the form, and the text never shows a URL."""
    with pytest.raises(EngineRefused, match="write chain selector=URL"):
        endpoints(text)
    assert endpoints(" 1=http://a , 2=https://b/c?d=e,") == {1: "http://a", 2: "https://b/c?d=e"}
