"""A chain of eth-tester behind JSON-RPC on loopback: what an admin's endpoint is to the operator.

py-evm runs the contracts; here its answers get the names and the hex that JSON-RPC has.
"""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from eth_tester.backends.pyevm.main import PyEVMBackend
from eth_tester.exceptions import BlockNotFound, TransactionFailed, TransactionNotFound
from eth_tester.main import EthereumTester

# py-evm raises it for contracts that call each other a thousand deep; ours do not, and with it a
# nested JSON is the end of the process instead of a RecursionError, as it is in an operator.
sys.setrecursionlimit(1000)
TOPIC = "0x" + "ab" * 32
# Without calldata it logs 7 under the topic and returns 42; with any it reverts.
_RUNTIME = bytes.fromhex(
    "3615600a5760006000fd5b60076000527f" + "ab" * 32 + "60206000a1602a60005260206000f3"
)
_INIT = bytes.fromhex(f"60{len(_RUNTIME):02x}80600b6000396000f3") + _RUNTIME


class Chain:
    """One contract on a chain that makes a block for each transaction."""

    def __init__(self) -> None:
        self.tester = EthereumTester(PyEVMBackend())
        self.account, self.other = self.tester.get_accounts()[:2]
        deployed = self.send(data="0x" + _INIT.hex())
        self.deployment = deployed
        self.contract = self.tester.get_transaction_receipt(deployed)["contract_address"]
        self.asked: list[tuple[str, list[Any]]] = []
        self.answer: bytes | None = None  # instead of the chain's own

    def send(self, **transaction: Any) -> str:
        """Send from the account and return the hash; it is in a block of its own."""
        return str(self.tester.send_transaction(
            {"from": self.account, "gas": 300_000, "gas_price": 10**10} | transaction
        ))  # fmt: skip

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Answer at the URL that is yielded."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/key-s3cret"
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        if self.answer is not None:
            return web.Response(body=self.answer)
        asked = await request.json()
        self.asked.append((asked["method"], asked["params"]))
        told = {"jsonrpc": "2.0", "id": asked["id"]}
        try:
            told["result"] = self._METHODS[asked["method"]](self, *asked["params"])
        except TransactionFailed as e:
            told["error"] = {"code": 3, "message": f"execution reverted: {e}"}
        except (BlockNotFound, TransactionNotFound):
            told["result"] = None
        return web.json_response(told)

    def _call(self, call: dict[str, str], block: str) -> str:
        return str(self.tester.call(self._from(call), _block(block)))

    def _balance(self, account: str, block: str) -> str:
        return hex(self.tester.get_balance(account, _block(block)))

    def _estimate(self, call: dict[str, str]) -> str:
        return hex(self.tester.estimate_gas(self._from(call)))

    def _from(self, call: dict[str, str]) -> dict[str, Any]:
        return {"from": self.account} | call

    def _header(self, block: str, full: bool) -> Any:
        return _json(self.tester.get_block_by_number(_block(block), full))

    def _transaction(self, wanted: str) -> Any:
        found = dict(self.tester.get_transaction_by_hash(wanted))
        return _json(found) | {"input": found["data"]}

    def _receipt(self, wanted: str) -> Any:
        return _json(self.tester.get_transaction_receipt(wanted))

    def _logs(self, query: dict[str, Any]) -> Any:
        if "blockHash" in query:
            number = self.tester.get_block_by_hash(query["blockHash"])["number"]
            first = last = number
        else:
            first, last = _block(query["fromBlock"]), _block(query["toBlock"])
        found = self.tester.get_logs(
            from_block=first, to_block=last, address=query.get("address"),
            topics=query["topics"] or None,
        )  # fmt: skip
        return [_json(log) for log in found]

    _METHODS: dict[str, Callable[..., Any]] = {  # noqa: RUF012 - a table
        "eth_call": _call,
        "eth_getBalance": _balance,
        "eth_estimateGas": _estimate,
        "eth_getBlockByNumber": _header,
        "eth_getTransactionByHash": _transaction,
        "eth_getTransactionReceipt": _receipt,
        "eth_getLogs": _logs,
    }


def _block(text: str) -> Any:
    return int(text, 16) if text.startswith("0x") else text


def _json(value: Any) -> Any:
    """Return what JSON-RPC calls an answer of eth-tester: camelCase, and numbers in hex."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, dict):
        return {_camel(name): _json(item) for name, item in value.items()}
    return [_json(item) for item in value]


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))
