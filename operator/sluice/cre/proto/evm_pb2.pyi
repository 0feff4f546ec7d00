from sluice.cre.proto import values_pb2 as _values_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CallMsg(_message.Message):
    __slots__ = ("to", "data")
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    to: bytes
    data: bytes
    def __init__(self, to: _Optional[bytes] = ..., data: _Optional[bytes] = ..., **kwargs) -> None: ...

class CallContractRequest(_message.Message):
    __slots__ = ("call", "block_number")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BLOCK_NUMBER_FIELD_NUMBER: _ClassVar[int]
    call: CallMsg
    block_number: _values_pb2.BigInt
    def __init__(self, call: _Optional[_Union[CallMsg, _Mapping]] = ..., block_number: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ...) -> None: ...

class CallContractReply(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class BalanceAtRequest(_message.Message):
    __slots__ = ("account", "block_number")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_NUMBER_FIELD_NUMBER: _ClassVar[int]
    account: bytes
    block_number: _values_pb2.BigInt
    def __init__(self, account: _Optional[bytes] = ..., block_number: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ...) -> None: ...

class BalanceAtReply(_message.Message):
    __slots__ = ("balance",)
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    balance: _values_pb2.BigInt
    def __init__(self, balance: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ...) -> None: ...

class EstimateGasRequest(_message.Message):
    __slots__ = ("msg",)
    MSG_FIELD_NUMBER: _ClassVar[int]
    msg: CallMsg
    def __init__(self, msg: _Optional[_Union[CallMsg, _Mapping]] = ...) -> None: ...

class EstimateGasReply(_message.Message):
    __slots__ = ("gas",)
    GAS_FIELD_NUMBER: _ClassVar[int]
    gas: int
    def __init__(self, gas: _Optional[int] = ...) -> None: ...

class HeaderByNumberRequest(_message.Message):
    __slots__ = ("block_number",)
    BLOCK_NUMBER_FIELD_NUMBER: _ClassVar[int]
    block_number: _values_pb2.BigInt
    def __init__(self, block_number: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ...) -> None: ...

class HeaderByNumberReply(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: Header
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("timestamp", "block_number", "hash", "parent_hash")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    BLOCK_NUMBER_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    PARENT_HASH_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    block_number: _values_pb2.BigInt
    hash: bytes
    parent_hash: bytes
    def __init__(self, timestamp: _Optional[int] = ..., block_number: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ..., hash: _Optional[bytes] = ..., parent_hash: _Optional[bytes] = ...) -> None: ...

class GetTransactionByHashRequest(_message.Message):
    __slots__ = ("hash",)
    HASH_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    def __init__(self, hash: _Optional[bytes] = ...) -> None: ...

class GetTransactionByHashReply(_message.Message):
    __slots__ = ("transaction",)
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    transaction: Transaction
    def __init__(self, transaction: _Optional[_Union[Transaction, _Mapping]] = ...) -> None: ...

class Transaction(_message.Message):
    __slots__ = ("nonce", "gas", "to", "data", "hash", "value", "gas_price")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    GAS_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    GAS_PRICE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    gas: int
    to: bytes
    data: bytes
    hash: bytes
    value: _values_pb2.BigInt
    gas_price: _values_pb2.BigInt
    def __init__(self, nonce: _Optional[int] = ..., gas: _Optional[int] = ..., to: _Optional[bytes] = ..., data: _Optional[bytes] = ..., hash: _Optional[bytes] = ..., value: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ..., gas_price: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ...) -> None: ...

class GetTransactionReceiptRequest(_message.Message):
    __slots__ = ("hash",)
    HASH_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    def __init__(self, hash: _Optional[bytes] = ...) -> None: ...

class GetTransactionReceiptReply(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: Receipt
    def __init__(self, receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("status", "gas_used", "tx_index", "block_hash", "logs", "tx_hash", "effective_gas_price", "block_number", "contract_address")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    GAS_USED_FIELD_NUMBER: _ClassVar[int]
    TX_INDEX_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASH_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    TX_HASH_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_GAS_PRICE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_NUMBER_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    status: int
    gas_used: int
    tx_index: int
    block_hash: bytes
    logs: _containers.RepeatedCompositeFieldContainer[Log]
    tx_hash: bytes
    effective_gas_price: _values_pb2.BigInt
    block_number: _values_pb2.BigInt
    contract_address: bytes
    def __init__(self, status: _Optional[int] = ..., gas_used: _Optional[int] = ..., tx_index: _Optional[int] = ..., block_hash: _Optional[bytes] = ..., logs: _Optional[_Iterable[_Union[Log, _Mapping]]] = ..., tx_hash: _Optional[bytes] = ..., effective_gas_price: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ..., block_number: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ..., contract_address: _Optional[bytes] = ...) -> None: ...

class FilterLogsRequest(_message.Message):
    __slots__ = ("filter_query",)
    FILTER_QUERY_FIELD_NUMBER: _ClassVar[int]
    filter_query: FilterQuery
    def __init__(self, filter_query: _Optional[_Union[FilterQuery, _Mapping]] = ...) -> None: ...

class FilterQuery(_message.Message):
    __slots__ = ("block_hash", "from_block", "to_block", "addresses", "topics")
    BLOCK_HASH_FIELD_NUMBER: _ClassVar[int]
    FROM_BLOCK_FIELD_NUMBER: _ClassVar[int]
    TO_BLOCK_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    block_hash: bytes
    from_block: _values_pb2.BigInt
    to_block: _values_pb2.BigInt
    addresses: _containers.RepeatedScalarFieldContainer[bytes]
    topics: _containers.RepeatedCompositeFieldContainer[Topics]
    def __init__(self, block_hash: _Optional[bytes] = ..., from_block: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ..., to_block: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ..., addresses: _Optional[_Iterable[bytes]] = ..., topics: _Optional[_Iterable[_Union[Topics, _Mapping]]] = ...) -> None: ...

class Topics(_message.Message):
    __slots__ = ("topic",)
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    topic: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, topic: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FilterLogsReply(_message.Message):
    __slots__ = ("logs",)
    LOGS_FIELD_NUMBER: _ClassVar[int]
    logs: _containers.RepeatedCompositeFieldContainer[Log]
    def __init__(self, logs: _Optional[_Iterable[_Union[Log, _Mapping]]] = ...) -> None: ...

class Log(_message.Message):
    __slots__ = ("address", "topics", "tx_hash", "block_hash", "data", "event_sig", "block_number", "tx_index", "index", "removed")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    TX_HASH_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    EVENT_SIG_FIELD_NUMBER: _ClassVar[int]
    BLOCK_NUMBER_FIELD_NUMBER: _ClassVar[int]
    TX_INDEX_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    address: bytes
    topics: _containers.RepeatedScalarFieldContainer[bytes]
    tx_hash: bytes
    block_hash: bytes
    data: bytes
    event_sig: bytes
    block_number: _values_pb2.BigInt
    tx_index: int
    index: int
    removed: bool
    def __init__(self, address: _Optional[bytes] = ..., topics: _Optional[_Iterable[bytes]] = ..., tx_hash: _Optional[bytes] = ..., block_hash: _Optional[bytes] = ..., data: _Optional[bytes] = ..., event_sig: _Optional[bytes] = ..., block_number: _Optional[_Union[_values_pb2.BigInt, _Mapping]] = ..., tx_index: _Optional[int] = ..., index: _Optional[int] = ..., removed: _Optional[bool] = ...) -> None: ...
