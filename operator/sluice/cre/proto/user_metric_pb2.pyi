from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UserMetricType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USER_METRIC_TYPE_UNSPECIFIED: _ClassVar[UserMetricType]
    USER_METRIC_TYPE_COUNTER: _ClassVar[UserMetricType]
    USER_METRIC_TYPE_GAUGE: _ClassVar[UserMetricType]
USER_METRIC_TYPE_UNSPECIFIED: UserMetricType
USER_METRIC_TYPE_COUNTER: UserMetricType
USER_METRIC_TYPE_GAUGE: UserMetricType

class WorkflowUserMetric(_message.Message):
    __slots__ = ("workflow_execution_id", "timestamp", "name", "value", "type", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKFLOW_EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    workflow_execution_id: str
    timestamp: str
    name: str
    value: float
    type: UserMetricType
    labels: _containers.ScalarMap[str, str]
    def __init__(self, workflow_execution_id: _Optional[str] = ..., timestamp: _Optional[str] = ..., name: _Optional[str] = ..., value: _Optional[float] = ..., type: _Optional[_Union[UserMetricType, str]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...
