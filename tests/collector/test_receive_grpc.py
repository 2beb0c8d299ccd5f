"""OTLP/gRPC against a real channel, raw stubs and the official exporter's service classes."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from cutaway_collector.contracts import Receipt
from cutaway_collector.errors import MalformedRequest, Overloaded
from cutaway_collector.receive import GrpcReceiver
from cutaway_collector.receive import grpc as grpc_module
from cutaway_collector.receive.grpc import QUEUED_PER_THREAD, READERS_PER_THREAD
from receive_helpers import Recorder, eventually, request, until_closed

LIMIT = 100_000
THREADS = 2


@pytest.fixture
def submit() -> Recorder:
    return Recorder()


@pytest.fixture
def receiver(submit: Recorder) -> Iterator[GrpcReceiver]:
    made = GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=LIMIT, threads=THREADS)
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
    answer = TraceServiceStub(channel).Export(message, timeout=60, compression=compression)
    assert not answer.HasField("partial_success")
    assert submit.payloads == [(message.SerializeToString(), "protobuf")]


def test_partial_success(channel: grpc.Channel, submit: Recorder) -> None:
    """Rejected spans come back counted, with words."""
    submit.receipt = Receipt(1, 3, "3 spans start in 1970")
    answer = TraceServiceStub(channel).Export(request(), timeout=60)
    assert (answer.partial_success.rejected_spans, answer.partial_success.error_message) == (3, "3 spans start in 1970")


def _fails(channel: grpc.Channel, body: bytes = b"") -> grpc.RpcError:
    call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                               response_deserializer=ExportTraceServiceResponse.FromString)
    with pytest.raises(grpc.RpcError) as caught:
        call(body, timeout=60)
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
        call(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_waiting_calls_are_bounded_and_told_to_come_back(channel: grpc.Channel, receiver: GrpcReceiver, submit: Recorder) -> None:
    """More calls than threads and places: UNAVAILABLE with RetryInfo, which exporters repeat; the others are served."""
    gate = threading.Event()
    submit.gate = gate
    call = TraceServiceStub(channel).Export
    calls = [call.future(request(), timeout=60) for _ in range(THREADS * (QUEUED_PER_THREAD + READERS_PER_THREAD) + 10)]
    eventually(lambda: any(one.done() for one in calls))
    gate.set()
    outcomes = [one.code() for one in calls]
    assert set(outcomes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    told = next(one for one in calls if one.code() is grpc.StatusCode.UNAVAILABLE)
    status = status_pb2.Status.FromString(dict(told.trailing_metadata())["grpc-status-details-bin"])
    assert status.details[0].Unpack(error_details_pb2.RetryInfo())
    assert len(submit.payloads) == outcomes.count(grpc.StatusCode.OK)


def test_messages_on_their_way_in_share_a_budget(submit: Recorder) -> None:
    """One that would exceed it is told to come back; alone, it is let in."""
    submit.gate = threading.Event()
    receiver = GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=LIMIT, threads=THREADS, receive_bytes_max=90_000)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{receiver.address[1]}") as channel:
            call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            held = call.future(bytes(60_000), timeout=60)
            eventually(lambda: receiver._budget.held == 60_000)
            with pytest.raises(grpc.RpcError) as caught:
                call(bytes(60_000), timeout=60)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            submit.gate.set()
            held.result()
            call(bytes(99_000), timeout=60)
    finally:
        receiver.close()
    assert [len(payload) for payload, _ in submit.payloads] == [60_000, 99_000]


def test_a_message_that_does_not_arrive_is_given_up(
    channel: grpc.Channel, receiver: GrpcReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that opens calls and sends nothing does not keep the threads."""
    stuck = channel.stream_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    never = threading.Event()
    calls = [stuck.future(iter(never.wait, True), timeout=60) for _ in range(THREADS * READERS_PER_THREAD)]
    eventually(lambda: len(receiver._reading) == len(calls))
    monkeypatch.setattr(grpc_module, "MESSAGE_SECONDS_MAX", 0.2)
    TraceServiceStub(channel).Export(request(), timeout=60)
    assert {one.code() for one in calls} == {grpc.StatusCode.CANCELLED}
    never.set()


def test_fault_12_calls_that_never_send_keep_nobody_out(
    channel: grpc.Channel, receiver: GrpcReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads wait for messages that do not come: once another call waits for a thread, they are given up early."""
    monkeypatch.setattr(grpc_module, "PRESSED_SECONDS_MAX", 0.2)
    stuck = channel.stream_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    never = threading.Event()
    calls = [stuck.future(iter(never.wait, True), timeout=60) for _ in range(THREADS * READERS_PER_THREAD)]
    eventually(lambda: len(receiver._reading) == len(calls))
    TraceServiceStub(channel).Export(request(), timeout=60)
    never.set()


def test_a_call_without_a_message_is_malformed(channel: grpc.Channel, submit: Recorder) -> None:
    """Not an empty request: nothing was sent."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(iter([]), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert submit.payloads == []


def test_metadata_is_bounded(channel: grpc.Channel, submit: Recorder) -> None:
    """16 KiB of it pass, more is refused before anything is read."""
    call = TraceServiceStub(channel).Export
    call(request(), metadata=[("x", "a" * 12_000)], timeout=60)
    with pytest.raises(grpc.RpcError) as caught:
        call(request(), metadata=[("x", "a" * 20_000)], timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(submit.payloads) == 1


def test_a_bomb_is_bounded_while_it_is_inflated(channel: grpc.Channel, submit: Recorder) -> None:
    """A megabyte that inflates to a gigabyte costs the limit, and is permanent: no RetryInfo."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(
            bytes(64 * 1024 * 1024), compression=grpc.Compression.Gzip, timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-status-details-bin" not in dict(caught.value.trailing_metadata() or ())
    assert submit.payloads == []


def test_connections_are_capped(submit: Recorder) -> None:
    """A connection too many is not served until another has gone."""
    receiver = GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=LIMIT, threads=2, connections_max=3)
    own = [("grpc.use_local_subchannel_pool", 1)]  # or four channels would share one connection
    channels = [grpc.insecure_channel(f"127.0.0.1:{receiver.address[1]}", own) for _ in range(4)]
    try:
        for channel in channels[:3]:
            TraceServiceStub(channel).Export(request(), timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            TraceServiceStub(channels[3]).Export(request(), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        channels[0].close()
        TraceServiceStub(channels[3]).Export(request(), timeout=60, wait_for_ready=True)
    finally:
        for channel in channels:
            channel.close()
        receiver.close()
    assert len(submit.payloads) == 4


def test_a_ping_flood_ends_its_connection(receiver: GrpcReceiver, channel: grpc.Channel) -> None:
    """HTTP/2 pings without data, faster than allowed: GOAWAY, and the connection is closed; other senders notice nothing."""
    frame = (8).to_bytes(3, "big") + b"\x06\x00" + bytes(4) + bytes(8)
    with socket.create_connection(receiver.address, timeout=60) as raw:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4))
        with contextlib.suppress(ConnectionError):
            raw.sendall(frame * 1000)
        said = until_closed(raw)
    assert b"too_many_pings" in said
    TraceServiceStub(channel).Export(request(), timeout=60)


def test_a_reset_flood_harms_nobody(receiver: GrpcReceiver, channel: grpc.Channel, submit: Recorder) -> None:
    """Calls opened and cancelled at once, over and over: no place is kept, the next call is served."""
    open_call = channel.stream_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    never = threading.Event()
    for _ in range(300):
        open_call.future(iter(never.wait, True), timeout=60).cancel()
    TraceServiceStub(channel).Export(request(), timeout=60, wait_for_ready=True)
    eventually(lambda: not receiver._reading)
    never.set()
    assert len(submit.payloads) == 1


def test_no_refusal_logs_what_was_sent(channel: grpc.Channel, submit: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """Neither payload nor metadata, whichever way a call is refused."""
    caplog.set_level(logging.DEBUG)
    secret = b"tell-nobody" * 100
    call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    for error in (MalformedRequest("no"), Overloaded("no"), RuntimeError("boom")):
        submit.error = error
        with pytest.raises(grpc.RpcError):
            call(secret, metadata=[("authorization", "tell-nobody")], timeout=60)
    with pytest.raises(grpc.RpcError):
        call(secret * 1000, timeout=60)
    with pytest.raises(grpc.RpcError):
        channel.unary_unary("/tell-nobody/Export")(secret, timeout=60)
    assert "tell-nobody" not in caplog.text
    assert "OTLP/gRPC request failed in the collector" in caplog.text


def test_an_internal_failure_harms_no_other_request(channel: grpc.Channel, submit: Recorder) -> None:
    """An unexpected exception becomes UNAVAILABLE; the next call is served."""
    submit.error = RuntimeError("boom")
    assert _fails(channel).code() is grpc.StatusCode.UNAVAILABLE
    submit.error = None
    TraceServiceStub(channel).Export(request(), timeout=60)


def test_a_taken_port_is_an_error(receiver: GrpcReceiver, submit: Recorder) -> None:
    """Two receivers on one port: the second says so at once."""
    with pytest.raises(OSError, match="cannot listen"):
        GrpcReceiver(submit, "127.0.0.1", receiver.address[1], body_bytes_max=1, threads=1)
