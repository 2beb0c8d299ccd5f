"""OTLP/gRPC against a real channel, raw stubs and the official exporter's service classes."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from cutaway_collector.contracts import Receipt
from cutaway_collector.errors import MalformedRequest, Overloaded
from cutaway_collector.receive import GrpcReceiver
from receive_helpers import Recorder, request

LIMIT = 100_000


@pytest.fixture
def submit() -> Recorder:
    return Recorder()


@pytest.fixture
def receiver(submit: Recorder) -> Iterator[GrpcReceiver]:
    made = GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=LIMIT, threads=2)
    yield made
    made.close()


@pytest.fixture
def channel(receiver: GrpcReceiver) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{receiver.address[1]}") as made:
        yield made


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_export_arrives_unchanged(channel: grpc.Channel, submit: Recorder, compression: grpc.Compression) -> None:
    """An Export, compressed or not, reaches submit byte for byte; success leaves partial_success unset."""
    message = request(30)
    answer = TraceServiceStub(channel).Export(message, timeout=10, compression=compression)
    assert not answer.HasField("partial_success")
    assert submit.payloads == [(message.SerializeToString(), "protobuf")]


def test_partial_success(channel: grpc.Channel, submit: Recorder) -> None:
    """Rejected spans come back counted, with words."""
    submit.receipt = Receipt(1, 3, "3 spans start in 1970")
    answer = TraceServiceStub(channel).Export(request(), timeout=10)
    assert (answer.partial_success.rejected_spans, answer.partial_success.error_message) == (3, "3 spans start in 1970")


def _fails(channel: grpc.Channel, body: bytes = b"") -> grpc.RpcError:
    call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                               response_deserializer=ExportTraceServiceResponse.FromString)
    with pytest.raises(grpc.RpcError) as caught:
        call(body, timeout=10)
    return caught.value


def _details(error: grpc.RpcError) -> status_pb2.Status:
    trailing = dict(error.trailing_metadata())
    return status_pb2.Status.FromString(trailing["grpc-status-details-bin"])


def test_malformed_is_invalid_argument_with_a_bad_request_detail(channel: grpc.Channel, submit: Recorder) -> None:
    """Undecodable bytes: INVALID_ARGUMENT, the reason, and a BadRequest detail."""
    submit.error = MalformedRequest("varint at byte 7 is longer than 10 bytes")
    error = _fails(channel, b"junk")
    detail = error_details_pb2.BadRequest()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "varint at byte 7 is longer than 10 bytes"
    assert _details(error).details[0].Unpack(detail)
    assert detail.field_violations[0].description == error.details()


def test_overload_is_unavailable_with_retry_info(channel: grpc.Channel, submit: Recorder) -> None:
    """A full queue: UNAVAILABLE with RetryInfo greater than zero, so that standard exporters come back."""
    submit.error = Overloaded("the queue is full", retry_after_s=2)
    error = _fails(channel)
    info = error_details_pb2.RetryInfo()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert _details(error).details[0].Unpack(info)
    assert info.retry_delay.seconds == 2


def test_oversize_is_resource_exhausted(channel: grpc.Channel, submit: Recorder) -> None:
    """A message over the limit, plain or inflated, is refused and not submitted."""
    assert _fails(channel, bytes(LIMIT + 1)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert submit.payloads == []


def test_unknown_service_is_unimplemented(channel: grpc.Channel) -> None:
    """Metrics and logs are not stored here: UNIMPLEMENTED."""
    call = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_internal_failure_harms_no_other_request(channel: grpc.Channel, submit: Recorder) -> None:
    """An unexpected exception becomes UNAVAILABLE; the next call is served."""
    submit.error = RuntimeError("boom")
    assert _fails(channel).code() is grpc.StatusCode.UNAVAILABLE
    submit.error = None
    TraceServiceStub(channel).Export(request(), timeout=10)


def test_a_taken_port_is_an_error(receiver: GrpcReceiver, submit: Recorder) -> None:
    """Two receivers on one port: the second says so at once."""
    with pytest.raises(OSError, match="cannot listen"):
        GrpcReceiver(submit, "127.0.0.1", receiver.address[1], body_bytes_max=1, threads=1)
