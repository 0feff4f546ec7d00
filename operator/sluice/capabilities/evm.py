"""Reads of EVM chains, ``evm:ChainSelector:N@1.0.0``, over JSON-RPC.

The endpoint is the admin's, one for each chain; its URL may hold a key, so no error shows it.
Writes are not there yet: they need funds, nonces and a policy of their own.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message

from sluice.capabilities import Budget, CallContext, pack, unknown_method, unpack
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto import evm_pb2 as pb
from sluice.cre.proto.values_pb2 import BigInt
from sluice.cre.values import big, small
from sluice.errors import EngineRefused
from sluice.reasons import Reason
from sluice.settings import Settings

_Methods = Mapping[str, tuple[type[Message], Callable[[Any], Awaitable[Message]]]]
_LATEST, _FINALIZED = -2, -3
_ADDRESS, _HASH = 20, 32
_TOPICS_MAX = 4
_U64 = 1 << 64
_WRITES = "writing to a chain is not supported yet; read from it, or send the report by http"
_LOG_TRIGGER = "triggers of logs on a chain are not supported yet; look for logs by FilterLogs"


class RpcFailed(Exception):  # noqa: N818 - named for what it says
    """The endpoint gave no answer; the message says why, without its URL."""


class Post(Protocol):
    """Sends one body to one endpoint, for as long and as much as is allowed."""

    async def __call__(self, url: str, body: bytes, *, timeout_s: float, bytes_max: int) -> bytes:
        """Return the body of the answer; raises RpcFailed."""
        ...


def endpoints(text: str) -> dict[int, str]:
    """Read ``cre_evm_rpc``; raises EngineRefused, which repeats nothing but a selector."""
    found: dict[int, str] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        selector, _, url = item.partition("=")
        number = int(selector) if selector.isdecimal() else _U64
        if number >= _U64 or not url.startswith(("http://", "https://")):
            raise EngineRefused(
                Reason.ENGINE_REFUSED,
                f'cre_evm_rpc: "{selector[:20]}": write chain selector=URL, for example '
                "16015286601757825753=https://rpc.example.com, with commas between",
            )
        found[number] = url
    return found


def evm_capabilities(settings: Settings, post: Post) -> "list[Evm]":
    """Return one capability for each chain that the admin has an endpoint for."""
    chains = endpoints(settings.cre_evm_rpc)
    return [Evm(selector, _Rpc(url, post, settings), settings) for selector, url in chains.items()]


@dataclass(frozen=True, slots=True)
class _Rpc:
    """One endpoint."""

    url: str
    post: Post
    settings: Settings

    async def ask(self, method: str, *params: Any) -> Any:
        """Return a result, which may be null; raises CapabilityError."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        try:
            answer = await self.post(
                self.url, body.encode(), timeout_s=self.settings.cre_evm_s_max,
                bytes_max=self.settings.cre_evm_answer_bytes_max,
            )  # fmt: skip
            said = json.loads(answer)
            error, result = said.get("error"), said.get("result")
        except RpcFailed as e:
            raise CapabilityError(Code.UNAVAILABLE, f"{method}: {e}") from None
        except (ValueError, AttributeError, RecursionError):
            raise CapabilityError(
                Code.UNAVAILABLE, f"{method}: the endpoint's answer is no JSON-RPC"
            ) from None
        if error is not None:
            raise _told(method, error)
        return result


def _told(method: str, error: Any) -> CapabilityError:
    message = str(error.get("message", ""))[:500] if isinstance(error, dict) else ""
    # What a contract refuses is its caller's matter; all else is the endpoint's.
    code = Code.FAILED_PRECONDITION if "revert" in message.lower() else Code.UNAVAILABLE
    return CapabilityError(code, f"{method}: {message or 'the endpoint refused'}")


class Evm:
    """One chain."""

    def __init__(self, selector: int, rpc: _Rpc, settings: Settings) -> None:
        self.id = f"evm:ChainSelector:{selector}@1.0.0"
        self.budget = Budget("ChainRead", settings.cre_evm_calls_max)
        self._rpc, self._settings = rpc, settings
        self._methods: _Methods = {
            "CallContract": (pb.CallContractRequest, self._call_contract),
            "BalanceAt": (pb.BalanceAtRequest, self._balance),
            "EstimateGas": (pb.EstimateGasRequest, self._estimate),
            "HeaderByNumber": (pb.HeaderByNumberRequest, self._header),
            "GetTransactionByHash": (pb.GetTransactionByHashRequest, self._transaction),
            "GetTransactionReceipt": (pb.GetTransactionReceiptRequest, self._receipt),
            "FilterLogs": (pb.FilterLogsRequest, self._logs),
        }

    async def call(self, method: str, payload: Packed, context: CallContext) -> Packed:  # noqa: ARG002 - a Capability
        """Answer one call; raises CapabilityError."""
        if method in {"WriteReport", "LogTrigger"}:
            text = _WRITES if method == "WriteReport" else _LOG_TRIGGER
            raise CapabilityError(Code.UNIMPLEMENTED, text)
        if method not in self._methods:
            raise unknown_method(method, self._methods)
        kind, answer = self._methods[method]
        most = self._settings.cre_evm_request_bytes_max
        if len(payload.value) > most:
            raise CapabilityError(
                Code.LIMIT_EXCEEDED,
                f"the request has {len(payload.value):,} bytes, but at most {most:,} are sent "
                "(cre_evm_request_bytes_max)",
            )
        request = unpack(payload, kind)
        try:
            return pack(await answer(request))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            # Of another's answer nothing is taken for granted.
            raise CapabilityError(
                Code.UNAVAILABLE, f"{method}: the endpoint's answer lacks what it should have"
            ) from None

    async def _call_contract(self, request: pb.CallContractRequest) -> Message:
        call = _call(request.call)
        data = await self._rpc.ask("eth_call", call, _block(request))
        return pb.CallContractReply(data=_bytes(data))

    async def _balance(self, request: pb.BalanceAtRequest) -> Message:
        account = _hex("account", request.account, _ADDRESS)
        balance = await self._rpc.ask("eth_getBalance", account, _block(request))
        return pb.BalanceAtReply(balance=_big(balance))

    async def _estimate(self, request: pb.EstimateGasRequest) -> Message:
        return pb.EstimateGasReply(
            gas=_int(await self._rpc.ask("eth_estimateGas", _call(request.msg)))
        )

    async def _header(self, request: pb.HeaderByNumberRequest) -> Message:
        block = _block(request)
        found = _found(await self._rpc.ask("eth_getBlockByNumber", block, False), f"block {block}")
        header = pb.Header(
            timestamp=_int(found["timestamp"]), block_number=_big(found["number"]),
            hash=_bytes(found["hash"]), parent_hash=_bytes(found["parentHash"]),
        )  # fmt: skip
        return pb.HeaderByNumberReply(header=header)

    async def _transaction(self, request: pb.GetTransactionByHashRequest) -> Message:
        wanted = _hex("hash", request.hash, _HASH)
        asked = await self._rpc.ask("eth_getTransactionByHash", wanted)
        found = _found(asked, f"transaction {wanted}")
        transaction = pb.Transaction(
            nonce=_int(found["nonce"]), gas=_int(found["gas"]), to=_bytes(found.get("to")),
            data=_bytes(found["input"]), hash=_bytes(found["hash"]), value=_big(found["value"]),
            gas_price=_big(found.get("gasPrice") or found.get("maxFeePerGas") or "0x0"),
        )  # fmt: skip
        return pb.GetTransactionByHashReply(transaction=transaction)

    async def _receipt(self, request: pb.GetTransactionReceiptRequest) -> Message:
        wanted = _hex("hash", request.hash, _HASH)
        asked = await self._rpc.ask("eth_getTransactionReceipt", wanted)
        found = _found(asked, f"receipt of transaction {wanted}")
        receipt = pb.Receipt(
            status=_int(found["status"]), gas_used=_int(found["gasUsed"]),
            tx_index=_int(found["transactionIndex"]), block_hash=_bytes(found["blockHash"]),
            logs=[_log(log) for log in found["logs"]], tx_hash=_bytes(found["transactionHash"]),
            effective_gas_price=_big(found.get("effectiveGasPrice") or "0x0"),
            block_number=_big(found["blockNumber"]),
            contract_address=_bytes(found.get("contractAddress")),
        )  # fmt: skip
        return pb.GetTransactionReceiptReply(receipt=receipt)

    async def _logs(self, request: pb.FilterLogsRequest) -> Message:
        query = request.filter_query
        wanted: dict[str, Any] = {}
        if query.addresses:
            wanted["address"] = [_hex("an address", a, _ADDRESS) for a in query.addresses]
        if len(query.topics) > _TOPICS_MAX:
            raise _invalid(f"there are {len(query.topics)} topics; a log has at most {_TOPICS_MAX}")
        wanted["topics"] = [
            [_hex("a topic", t, _HASH) for t in topics.topic] or None for topics in query.topics
        ]
        if query.block_hash:
            if query.HasField("from_block") or query.HasField("to_block"):
                raise _invalid("the query has a block's hash and a range; give one of them")
            wanted["blockHash"] = _hex("the block's hash", query.block_hash, _HASH)
        else:
            first, last = _block(query, "from_block"), _block(query, "to_block")
            await self._check_range(first, last)
            wanted |= {"fromBlock": first, "toBlock": last}
        return pb.FilterLogsReply(
            logs=[_log(log) for log in await self._rpc.ask("eth_getLogs", wanted)]
        )

    async def _check_range(self, first: str, last: str) -> None:
        """Refuse a range of too many blocks; what a word stands for is asked of the chain."""
        if first == last:
            return
        count = await self._number(last) - await self._number(first) + 1
        most = self._settings.cre_evm_blocks_max
        if count < 1:
            raise _invalid("the first block of the range comes after the last one")
        if count > most:
            raise CapabilityError(
                Code.LIMIT_EXCEEDED,
                f"the range has {count:,} blocks, but at most {most:,} are looked in "
                "(cre_evm_blocks_max)",
            )

    async def _number(self, block: str) -> int:
        if block.startswith("0x"):
            return int(block, 16)
        asked = await self._rpc.ask("eth_getBlockByNumber", block, False)
        return _int(_found(asked, f"block {block}")["number"])


def _call(message: pb.CallMsg) -> dict[str, str]:
    call = {"to": _hex("to", message.to, _ADDRESS)} if message.to else {}
    if sender := getattr(message, "from"):  # a word of Python's, so it has no attribute's syntax
        call["from"] = _hex("from", sender, _ADDRESS)
    return call | {"data": "0x" + message.data.hex()}


def _block(request: Message, field: str = "block_number") -> str:
    """Return a block as JSON-RPC names it; one that is not given is the latest."""
    if not request.HasField(field):
        return "latest"
    number: BigInt = getattr(request, field)
    value = small(number)
    if value == _LATEST:
        return "latest"
    if value == _FINALIZED:
        return "finalized"
    if not 0 <= value < _U64:
        raise _invalid(
            f"block {str(value)[:40]} is none; give a number, {_LATEST} for the latest or "
            f"{_FINALIZED} for the last finalized one"
        )
    return hex(value)


def _hex(what: str, value: bytes, size: int) -> str:
    if len(value) != size:
        raise _invalid(f"{what} has {len(value)} bytes; it is one of {size}")
    return "0x" + value.hex()


def _log(log: dict[str, Any]) -> pb.Log:
    topics = [_bytes(topic) for topic in log["topics"]]
    return pb.Log(
        address=_bytes(log["address"]), topics=topics, tx_hash=_bytes(log["transactionHash"]),
        block_hash=_bytes(log["blockHash"]), data=_bytes(log["data"]),
        event_sig=topics[0] if topics else b"", block_number=_big(log["blockNumber"]),
        tx_index=_int(log["transactionIndex"]), index=_int(log["logIndex"]),
        removed=bool(log.get("removed")),
    )  # fmt: skip


def _found(answer: Any, what: str) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise CapabilityError(Code.NOT_FOUND, f"there is no {what}")
    return answer


def _bytes(text: str | None) -> bytes:
    return bytes.fromhex(text.removeprefix("0x")) if text else b""


def _int(text: str) -> int:
    return int(text, 16)


def _big(text: str) -> BigInt:
    return big(_int(text))


def _invalid(message: str) -> CapabilityError:
    return CapabilityError(Code.INVALID_ARGUMENT, message)
