"""What the receivers answer: export responses and google.rpc.Status, in the encoding of the request. No I/O here."""

from __future__ import annotations

from typing import Final

import orjson
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from cutaway_collector.contracts import Encoding, Receipt
from cutaway_collector.errors import MalformedRequest, RequestError

MESSAGE_CHARS_MAX: Final = 4096
"""An error message is for a person; a response stays far below OTLP's 4 MiB even when every span was refused."""


def export_response(receipt: Receipt, encoding: Encoding) -> bytes:
    """Export response of the request's signal; `partial_success` is unset when there is nothing to say (0 bytes, or {} in JSON).

    In protobuf the responses of traces and logs are the same bytes: field 1 counts, field 2 says why. Scores are answered
    {"accepted", "rejected", "message"}.
    """
    message = receipt.message[:MESSAGE_CHARS_MAX]
    if encoding == "scores/json":
        return orjson.dumps({"accepted": receipt.accepted, "rejected": receipt.rejected, "message": message})
    if not encoding.endswith("json"):
        response = ExportTraceServiceResponse()
        if receipt.rejected or message:
            response.partial_success.rejected_spans = receipt.rejected
            response.partial_success.error_message = message
        return bytes(response.SerializeToString())
    if not (receipt.rejected or message):
        return b"{}"
    partial: dict[str, str] = {"errorMessage": message}
    if receipt.rejected:
        counted = "rejectedLogRecords" if encoding.startswith("logs/") else "rejectedSpans"
        partial[counted] = str(receipt.rejected)  # int64 is a string in proto JSON
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


def status_body(error: RequestError, *, as_json: bool) -> bytes:
    """The Status as an HTTP body, ProtoJSON or protobuf."""
    status = status_message(error)
    return orjson.dumps(json_format.MessageToDict(status)) if as_json else bytes(status.SerializeToString())


def status_headers(error: RequestError) -> list[tuple[bytes, bytes]]:
    """HTTP headers a refusal carries beside its body."""
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.http == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.http == 405:
        headers.append((b"allow", b"POST"))
    return headers
