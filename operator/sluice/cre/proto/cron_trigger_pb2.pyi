import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Config(_message.Message):
    __slots__ = ("schedule",)
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    schedule: str
    def __init__(self, schedule: _Optional[str] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("scheduled_execution_time",)
    SCHEDULED_EXECUTION_TIME_FIELD_NUMBER: _ClassVar[int]
    scheduled_execution_time: _timestamp_pb2.Timestamp
    def __init__(self, scheduled_execution_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LegacyPayload(_message.Message):
    __slots__ = ("scheduled_execution_time",)
    SCHEDULED_EXECUTION_TIME_FIELD_NUMBER: _ClassVar[int]
    scheduled_execution_time: str
    def __init__(self, scheduled_execution_time: _Optional[str] = ...) -> None: ...
