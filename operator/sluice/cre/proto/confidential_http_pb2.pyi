import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SecretIdentifier(_message.Message):
    __slots__ = ("key", "namespace", "owner")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    key: str
    namespace: str
    owner: str
    def __init__(self, key: _Optional[str] = ..., namespace: _Optional[str] = ..., owner: _Optional[str] = ...) -> None: ...

class HeaderValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class HTTPRequest(_message.Message):
    __slots__ = ("url", "method", "body_string", "body_bytes", "multi_headers", "template_public_values", "custom_root_ca_cert_pem", "timeout", "encrypt_output")
    class MultiHeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: HeaderValues
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[HeaderValues, _Mapping]] = ...) -> None: ...
    class TemplatePublicValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    URL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    BODY_STRING_FIELD_NUMBER: _ClassVar[int]
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MULTI_HEADERS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_PUBLIC_VALUES_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_ROOT_CA_CERT_PEM_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    ENCRYPT_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    url: str
    method: str
    body_string: str
    body_bytes: bytes
    multi_headers: _containers.MessageMap[str, HeaderValues]
    template_public_values: _containers.ScalarMap[str, str]
    custom_root_ca_cert_pem: bytes
    timeout: _duration_pb2.Duration
    encrypt_output: bool
    def __init__(self, url: _Optional[str] = ..., method: _Optional[str] = ..., body_string: _Optional[str] = ..., body_bytes: _Optional[bytes] = ..., multi_headers: _Optional[_Mapping[str, HeaderValues]] = ..., template_public_values: _Optional[_Mapping[str, str]] = ..., custom_root_ca_cert_pem: _Optional[bytes] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., encrypt_output: _Optional[bool] = ...) -> None: ...

class HTTPResponse(_message.Message):
    __slots__ = ("status_code", "body", "multi_headers")
    class MultiHeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: HeaderValues
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[HeaderValues, _Mapping]] = ...) -> None: ...
    STATUS_CODE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    MULTI_HEADERS_FIELD_NUMBER: _ClassVar[int]
    status_code: int
    body: bytes
    multi_headers: _containers.MessageMap[str, HeaderValues]
    def __init__(self, status_code: _Optional[int] = ..., body: _Optional[bytes] = ..., multi_headers: _Optional[_Mapping[str, HeaderValues]] = ...) -> None: ...

class ConfidentialHTTPRequest(_message.Message):
    __slots__ = ("vault_don_secrets", "request")
    VAULT_DON_SECRETS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    vault_don_secrets: _containers.RepeatedCompositeFieldContainer[SecretIdentifier]
    request: HTTPRequest
    def __init__(self, vault_don_secrets: _Optional[_Iterable[_Union[SecretIdentifier, _Mapping]]] = ..., request: _Optional[_Union[HTTPRequest, _Mapping]] = ...) -> None: ...
