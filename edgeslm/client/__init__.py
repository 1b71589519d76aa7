"""Client for apps: ``from edgeslm.client import Client``. The client's only dependency is paho-mqtt."""

from edgeslm.client.client import Client, Options
from edgeslm.client.stream import Stream
from edgeslm.client.subscription import Listening, News
from edgeslm.errors import (
    BrokerError,
    Busy,
    Cancelled,
    EdgeslmError,
    Expired,
    InternalError,
    InvalidRequest,
    ModelUnavailable,
    NoMemory,
    Poisoned,
    ProtocolError,
    RequestError,
    TimedOut,
    TooLarge,
    TooLong,
    UnknownTask,
)
from edgeslm.messages import Chunk, ErrorBody, Result, Truncated

__all__ = [
    "BrokerError",
    "Busy",
    "Cancelled",
    "Chunk",
    "Client",
    "EdgeslmError",
    "ErrorBody",
    "Expired",
    "InternalError",
    "InvalidRequest",
    "Listening",
    "ModelUnavailable",
    "News",
    "NoMemory",
    "Options",
    "Poisoned",
    "ProtocolError",
    "RequestError",
    "Result",
    "Stream",
    "TimedOut",
    "TooLarge",
    "TooLong",
    "Truncated",
    "UnknownTask",
]
