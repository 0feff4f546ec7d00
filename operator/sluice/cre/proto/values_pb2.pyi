import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Value(_message.Message):
    __slots__ = ("string_value", "bool_value", "bytes_value", "map_value", "list_value", "decimal_value", "int64_value", "bigint_value", "time_value", "float64_value", "uint64_value")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    BYTES_VALUE_FIELD_NUMBER: _ClassVar[int]
    MAP_VALUE_FIELD_NUMBER: _ClassVar[int]
    LIST_VALUE_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    BIGINT_VALUE_FIELD_NUMBER: _ClassVar[int]
    TIME_VALUE_FIELD_NUMBER: _ClassVar[int]
    FLOAT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    UINT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    bool_value: bool
    bytes_value: bytes
    map_value: Map
    list_value: List
    decimal_value: Decimal
    int64_value: int
    bigint_value: BigInt
    time_value: _timestamp_pb2.Timestamp
    float64_value: float
    uint64_value: int
    def __init__(self, string_value: _Optional[str] = ..., bool_value: _Optional[bool] = ..., bytes_value: _Optional[bytes] = ..., map_value: _Optional[_Union[Map, _Mapping]] = ..., list_value: _Optional[_Union[List, _Mapping]] = ..., decimal_value: _Optional[_Union[Decimal, _Mapping]] = ..., int64_value: _Optional[int] = ..., bigint_value: _Optional[_Union[BigInt, _Mapping]] = ..., time_value: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., float64_value: _Optional[float] = ..., uint64_value: _Optional[int] = ...) -> None: ...

class BigInt(_message.Message):
    __slots__ = ("abs_val", "sign")
    ABS_VAL_FIELD_NUMBER: _ClassVar[int]
    SIGN_FIELD_NUMBER: _ClassVar[int]
    abs_val: bytes
    sign: int
    def __init__(self, abs_val: _Optional[bytes] = ..., sign: _Optional[int] = ...) -> None: ...

class Map(_message.Message):
    __slots__ = ("fields",)
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.MessageMap[str, Value]
    def __init__(self, fields: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class List(_message.Message):
    __slots__ = ("fields",)
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, fields: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Decimal(_message.Message):
    __slots__ = ("coefficient", "exponent")
    COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    EXPONENT_FIELD_NUMBER: _ClassVar[int]
    coefficient: BigInt
    exponent: int
    def __init__(self, coefficient: _Optional[_Union[BigInt, _Mapping]] = ..., exponent: _Optional[int] = ...) -> None: ...
