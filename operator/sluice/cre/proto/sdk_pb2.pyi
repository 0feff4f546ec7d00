from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from sluice.cre.proto import values_pb2 as _values_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_DON: _ClassVar[Mode]
    MODE_NODE: _ClassVar[Mode]

class AggregationType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGGREGATION_TYPE_UNSPECIFIED: _ClassVar[AggregationType]
    AGGREGATION_TYPE_MEDIAN: _ClassVar[AggregationType]
    AGGREGATION_TYPE_IDENTICAL: _ClassVar[AggregationType]
    AGGREGATION_TYPE_COMMON_PREFIX: _ClassVar[AggregationType]
    AGGREGATION_TYPE_COMMON_SUFFIX: _ClassVar[AggregationType]
    AGGREGATION_TYPE_FREQUENCY_LIST: _ClassVar[AggregationType]

class TeeType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEE_TYPE_UNSPECIFIED: _ClassVar[TeeType]
    TEE_TYPE_AWS_NITRO: _ClassVar[TeeType]

class RestrictionType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESTRICTION_TYPE_CLOSED: _ClassVar[RestrictionType]
    RESTRICTION_TYPE_OPEN: _ClassVar[RestrictionType]
MODE_UNSPECIFIED: Mode
MODE_DON: Mode
MODE_NODE: Mode
AGGREGATION_TYPE_UNSPECIFIED: AggregationType
AGGREGATION_TYPE_MEDIAN: AggregationType
AGGREGATION_TYPE_IDENTICAL: AggregationType
AGGREGATION_TYPE_COMMON_PREFIX: AggregationType
AGGREGATION_TYPE_COMMON_SUFFIX: AggregationType
AGGREGATION_TYPE_FREQUENCY_LIST: AggregationType
TEE_TYPE_UNSPECIFIED: TeeType
TEE_TYPE_AWS_NITRO: TeeType
RESTRICTION_TYPE_CLOSED: RestrictionType
RESTRICTION_TYPE_OPEN: RestrictionType

class ExecuteRequest(_message.Message):
    __slots__ = ("config", "subscribe", "trigger", "pre_hook", "max_response_size", "suspend_on_await")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    PRE_HOOK_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SUSPEND_ON_AWAIT_FIELD_NUMBER: _ClassVar[int]
    config: bytes
    subscribe: _empty_pb2.Empty
    trigger: Trigger
    pre_hook: Trigger
    max_response_size: int
    suspend_on_await: bool
    def __init__(self, config: _Optional[bytes] = ..., subscribe: _Optional[_Union[_empty_pb2.Empty, _Mapping]] = ..., trigger: _Optional[_Union[Trigger, _Mapping]] = ..., pre_hook: _Optional[_Union[Trigger, _Mapping]] = ..., max_response_size: _Optional[int] = ..., suspend_on_await: _Optional[bool] = ...) -> None: ...

class Trigger(_message.Message):
    __slots__ = ("id", "payload")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    id: int
    payload: _any_pb2.Any
    def __init__(self, id: _Optional[int] = ..., payload: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class ExecutionResult(_message.Message):
    __slots__ = ("value", "error", "trigger_subscriptions", "restrictions")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    RESTRICTIONS_FIELD_NUMBER: _ClassVar[int]
    value: _values_pb2.Value
    error: str
    trigger_subscriptions: TriggerSubscriptionRequest
    restrictions: Restrictions
    def __init__(self, value: _Optional[_Union[_values_pb2.Value, _Mapping]] = ..., error: _Optional[str] = ..., trigger_subscriptions: _Optional[_Union[TriggerSubscriptionRequest, _Mapping]] = ..., restrictions: _Optional[_Union[Restrictions, _Mapping]] = ...) -> None: ...

class TriggerSubscriptionRequest(_message.Message):
    __slots__ = ("subscriptions",)
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    subscriptions: _containers.RepeatedCompositeFieldContainer[TriggerSubscription]
    def __init__(self, subscriptions: _Optional[_Iterable[_Union[TriggerSubscription, _Mapping]]] = ...) -> None: ...

class TriggerSubscription(_message.Message):
    __slots__ = ("id", "payload", "method", "requirements", "pre_hook")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REQUIREMENTS_FIELD_NUMBER: _ClassVar[int]
    PRE_HOOK_FIELD_NUMBER: _ClassVar[int]
    id: str
    payload: _any_pb2.Any
    method: str
    requirements: Requirements
    pre_hook: bool
    def __init__(self, id: _Optional[str] = ..., payload: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., method: _Optional[str] = ..., requirements: _Optional[_Union[Requirements, _Mapping]] = ..., pre_hook: _Optional[bool] = ...) -> None: ...

class CapabilityRequest(_message.Message):
    __slots__ = ("id", "payload", "method", "callback_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CALLBACK_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    payload: _any_pb2.Any
    method: str
    callback_id: int
    def __init__(self, id: _Optional[str] = ..., payload: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., method: _Optional[str] = ..., callback_id: _Optional[int] = ...) -> None: ...

class CapabilityResponse(_message.Message):
    __slots__ = ("payload", "error")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    payload: _any_pb2.Any
    error: str
    def __init__(self, payload: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class AwaitCapabilitiesRequest(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class AwaitCapabilitiesResponse(_message.Message):
    __slots__ = ("responses",)
    class ResponsesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: CapabilityResponse
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[CapabilityResponse, _Mapping]] = ...) -> None: ...
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.MessageMap[int, CapabilityResponse]
    def __init__(self, responses: _Optional[_Mapping[int, CapabilityResponse]] = ...) -> None: ...

class GetSecretsRequest(_message.Message):
    __slots__ = ("requests", "callback_id")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CALLBACK_ID_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[SecretRequest]
    callback_id: int
    def __init__(self, requests: _Optional[_Iterable[_Union[SecretRequest, _Mapping]]] = ..., callback_id: _Optional[int] = ...) -> None: ...

class SecretRequest(_message.Message):
    __slots__ = ("id", "namespace")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    id: str
    namespace: str
    def __init__(self, id: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class AwaitSecretsRequest(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class AwaitSecretsResponse(_message.Message):
    __slots__ = ("responses",)
    class ResponsesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: SecretResponses
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[SecretResponses, _Mapping]] = ...) -> None: ...
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.MessageMap[int, SecretResponses]
    def __init__(self, responses: _Optional[_Mapping[int, SecretResponses]] = ...) -> None: ...

class SecretResponses(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[SecretResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[SecretResponse, _Mapping]]] = ...) -> None: ...

class SecretResponse(_message.Message):
    __slots__ = ("secret", "error")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    secret: Secret
    error: SecretError
    def __init__(self, secret: _Optional[_Union[Secret, _Mapping]] = ..., error: _Optional[_Union[SecretError, _Mapping]] = ...) -> None: ...

class Secret(_message.Message):
    __slots__ = ("id", "namespace", "owner", "value")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    id: str
    namespace: str
    owner: str
    value: str
    def __init__(self, id: _Optional[str] = ..., namespace: _Optional[str] = ..., owner: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class SecretError(_message.Message):
    __slots__ = ("id", "namespace", "owner", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    namespace: str
    owner: str
    error: str
    def __init__(self, id: _Optional[str] = ..., namespace: _Optional[str] = ..., owner: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class SimpleConsensusInputs(_message.Message):
    __slots__ = ("value", "error", "descriptors", "default")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    value: _values_pb2.Value
    error: str
    descriptors: ConsensusDescriptor
    default: _values_pb2.Value
    def __init__(self, value: _Optional[_Union[_values_pb2.Value, _Mapping]] = ..., error: _Optional[str] = ..., descriptors: _Optional[_Union[ConsensusDescriptor, _Mapping]] = ..., default: _Optional[_Union[_values_pb2.Value, _Mapping]] = ...) -> None: ...

class ConsensusDescriptor(_message.Message):
    __slots__ = ("aggregation", "fields_map")
    AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    FIELDS_MAP_FIELD_NUMBER: _ClassVar[int]
    aggregation: AggregationType
    fields_map: FieldsMap
    def __init__(self, aggregation: _Optional[_Union[AggregationType, str]] = ..., fields_map: _Optional[_Union[FieldsMap, _Mapping]] = ...) -> None: ...

class FieldsMap(_message.Message):
    __slots__ = ("fields",)
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ConsensusDescriptor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ConsensusDescriptor, _Mapping]] = ...) -> None: ...
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.MessageMap[str, ConsensusDescriptor]
    def __init__(self, fields: _Optional[_Mapping[str, ConsensusDescriptor]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("encoded_payload", "encoder_name", "signing_algo", "hashing_algo")
    ENCODED_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ENCODER_NAME_FIELD_NUMBER: _ClassVar[int]
    SIGNING_ALGO_FIELD_NUMBER: _ClassVar[int]
    HASHING_ALGO_FIELD_NUMBER: _ClassVar[int]
    encoded_payload: bytes
    encoder_name: str
    signing_algo: str
    hashing_algo: str
    def __init__(self, encoded_payload: _Optional[bytes] = ..., encoder_name: _Optional[str] = ..., signing_algo: _Optional[str] = ..., hashing_algo: _Optional[str] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("config_digest", "seq_nr", "report_context", "raw_report", "sigs")
    CONFIG_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEQ_NR_FIELD_NUMBER: _ClassVar[int]
    REPORT_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    RAW_REPORT_FIELD_NUMBER: _ClassVar[int]
    SIGS_FIELD_NUMBER: _ClassVar[int]
    config_digest: bytes
    seq_nr: int
    report_context: bytes
    raw_report: bytes
    sigs: _containers.RepeatedCompositeFieldContainer[AttributedSignature]
    def __init__(self, config_digest: _Optional[bytes] = ..., seq_nr: _Optional[int] = ..., report_context: _Optional[bytes] = ..., raw_report: _Optional[bytes] = ..., sigs: _Optional[_Iterable[_Union[AttributedSignature, _Mapping]]] = ...) -> None: ...

class AttributedSignature(_message.Message):
    __slots__ = ("signature", "signer_id")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SIGNER_ID_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    signer_id: int
    def __init__(self, signature: _Optional[bytes] = ..., signer_id: _Optional[int] = ...) -> None: ...

class Requirements(_message.Message):
    __slots__ = ("tee",)
    TEE_FIELD_NUMBER: _ClassVar[int]
    tee: Tee
    def __init__(self, tee: _Optional[_Union[Tee, _Mapping]] = ...) -> None: ...

class Tee(_message.Message):
    __slots__ = ("any_regions", "tee_types_and_regions")
    ANY_REGIONS_FIELD_NUMBER: _ClassVar[int]
    TEE_TYPES_AND_REGIONS_FIELD_NUMBER: _ClassVar[int]
    any_regions: Regions
    tee_types_and_regions: TeeTypesAndRegions
    def __init__(self, any_regions: _Optional[_Union[Regions, _Mapping]] = ..., tee_types_and_regions: _Optional[_Union[TeeTypesAndRegions, _Mapping]] = ...) -> None: ...

class Regions(_message.Message):
    __slots__ = ("regions",)
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    regions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, regions: _Optional[_Iterable[str]] = ...) -> None: ...

class TeeTypesAndRegions(_message.Message):
    __slots__ = ("tee_type_and_regions",)
    TEE_TYPE_AND_REGIONS_FIELD_NUMBER: _ClassVar[int]
    tee_type_and_regions: _containers.RepeatedCompositeFieldContainer[TeeTypeAndRegions]
    def __init__(self, tee_type_and_regions: _Optional[_Iterable[_Union[TeeTypeAndRegions, _Mapping]]] = ...) -> None: ...

class TeeTypeAndRegions(_message.Message):
    __slots__ = ("type", "regions")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    type: TeeType
    regions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, type: _Optional[_Union[TeeType, str]] = ..., regions: _Optional[_Iterable[str]] = ...) -> None: ...

class Restrictions(_message.Message):
    __slots__ = ("secrets", "capabilities")
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    secrets: SecretsRestritions
    capabilities: CapabilityRestrictions
    def __init__(self, secrets: _Optional[_Union[SecretsRestritions, _Mapping]] = ..., capabilities: _Optional[_Union[CapabilityRestrictions, _Mapping]] = ...) -> None: ...

class CapabilityRestrictions(_message.Message):
    __slots__ = ("restrictions", "max_total_calls", "type")
    RESTRICTIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_CALLS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    restrictions: _containers.RepeatedCompositeFieldContainer[CapabilityRestriction]
    max_total_calls: int
    type: RestrictionType
    def __init__(self, restrictions: _Optional[_Iterable[_Union[CapabilityRestriction, _Mapping]]] = ..., max_total_calls: _Optional[int] = ..., type: _Optional[_Union[RestrictionType, str]] = ...) -> None: ...

class CapabilityRestriction(_message.Message):
    __slots__ = ("method",)
    METHOD_FIELD_NUMBER: _ClassVar[int]
    method: MethodRestriction
    def __init__(self, method: _Optional[_Union[MethodRestriction, _Mapping]] = ...) -> None: ...

class MethodRestriction(_message.Message):
    __slots__ = ("id", "method", "max_calls")
    ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_FIELD_NUMBER: _ClassVar[int]
    id: str
    method: str
    max_calls: int
    def __init__(self, id: _Optional[str] = ..., method: _Optional[str] = ..., max_calls: _Optional[int] = ...) -> None: ...

class SecretsRestritions(_message.Message):
    __slots__ = ("restrictions", "max_secrets")
    RESTRICTIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_SECRETS_FIELD_NUMBER: _ClassVar[int]
    restrictions: _containers.RepeatedCompositeFieldContainer[SecretRestriction]
    max_secrets: int
    def __init__(self, restrictions: _Optional[_Iterable[_Union[SecretRestriction, _Mapping]]] = ..., max_secrets: _Optional[int] = ...) -> None: ...

class SecretRestriction(_message.Message):
    __slots__ = ("exact_secret", "prefixed_secret")
    EXACT_SECRET_FIELD_NUMBER: _ClassVar[int]
    PREFIXED_SECRET_FIELD_NUMBER: _ClassVar[int]
    exact_secret: Secret
    prefixed_secret: SecretPrefixRestriction
    def __init__(self, exact_secret: _Optional[_Union[Secret, _Mapping]] = ..., prefixed_secret: _Optional[_Union[SecretPrefixRestriction, _Mapping]] = ...) -> None: ...

class SecretPrefixRestriction(_message.Message):
    __slots__ = ("prefix", "namespace", "max_secrets")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MAX_SECRETS_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    namespace: str
    max_secrets: int
    def __init__(self, prefix: _Optional[str] = ..., namespace: _Optional[str] = ..., max_secrets: _Optional[int] = ...) -> None: ...
