from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KeyType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_TYPE_UNSPECIFIED: _ClassVar[KeyType]
    KEY_TYPE_ECDSA_EVM: _ClassVar[KeyType]
KEY_TYPE_UNSPECIFIED: KeyType
KEY_TYPE_ECDSA_EVM: KeyType

class Config(_message.Message):
    __slots__ = ("authorized_keys",)
    AUTHORIZED_KEYS_FIELD_NUMBER: _ClassVar[int]
    authorized_keys: _containers.RepeatedCompositeFieldContainer[AuthorizedKey]
    def __init__(self, authorized_keys: _Optional[_Iterable[_Union[AuthorizedKey, _Mapping]]] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("input", "key")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    input: bytes
    key: AuthorizedKey
    def __init__(self, input: _Optional[bytes] = ..., key: _Optional[_Union[AuthorizedKey, _Mapping]] = ...) -> None: ...

class AuthorizedKey(_message.Message):
    __slots__ = ("type", "public_key")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    type: KeyType
    public_key: str
    def __init__(self, type: _Optional[_Union[KeyType, str]] = ..., public_key: _Optional[str] = ...) -> None: ...
