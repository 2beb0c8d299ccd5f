"""The verb `receive`: OTLP over gRPC and HTTP, up to the moment the uncompressed request is handed to `submit`.

Knows protocols, limits and status codes; knows nothing of spans: what is inside the bytes is decode's business.
"""

from cutaway_collector.receive.grpc import GrpcReceiver
from cutaway_collector.receive.http import HttpReceiver

__all__ = ["GrpcReceiver", "HttpReceiver"]
