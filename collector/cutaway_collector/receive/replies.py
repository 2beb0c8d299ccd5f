"""What the receivers answer: export responses and google.rpc.Status, in the encoding of the request. No I/O here."""

from __future__ import annotations

from typing import Final

import orjson
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from cutaway_collector.contracts import Encoding, Receipt
from cutaway_collector.errors import MalformedRequest, RequestError

MESSAGE_CHARS_MAX: Final = 4096
"""An error message is for a person; a response stays far below OTLP's 4 MiB even when every span was refused."""


def export_response(receipt: Receipt, encoding: Encoding) -> bytes:
    """ExportTraceServiceResponse; `partial_success` is unset when there is nothing to say (0 bytes in protobuf, {} in JSON)."""
    message = receipt.message[:MESSAGE_CHARS_MAX]
    if encoding == "protobuf":
        response = ExportTraceServiceResponse()
        if receipt.rejected or message:
            response.partial_success.rejected_spans = receipt.rejected
            response.partial_success.error_message = message
        return bytes(response.SerializeToString())
    if not (receipt.rejected or message):
        return b"{}"
    partial: dict[str, str] = {"errorMessage": message}
    if receipt.rejected:
        partial["rejectedSpans"] = str(receipt.rejected)  # int64 is a string in proto JSON
    return orjson.dumps({"partialSuccess": partial})


def status_message(error: RequestError) -> status_pb2.Status:
    """google.rpc.Status of a refusal, with BadRequest or RetryInfo where they apply (OTLP 1.x, "Failures")."""
    text = str(error)[:MESSAGE_CHARS_MAX]
    status = status_pb2.Status(code=error.grpc, message=text)
    if isinstance(error, MalformedRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field="body", description=text)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.seconds = error.retry_after_s
        status.details.add().Pack(info)
    return status


def status_body(error: RequestError, encoding: Encoding) -> bytes:
    """The Status as an HTTP body in the request's encoding."""
    if encoding == "protobuf":
        return bytes(status_message(error).SerializeToString())
    return orjson.dumps({"code": error.grpc, "message": str(error)[:MESSAGE_CHARS_MAX]})
