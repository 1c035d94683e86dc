"""Both ends without a socket, against the bytes of containerd and each other."""

from __future__ import annotations

import struct

import pytest

from dunnage.errors import (
    DataLoss,
    DunnageError,
    EndOfStream,
    LocalProtocolError,
    NotFound,
    RemoteProtocolError,
    ResourceExhausted,
    Unknown,
)
from dunnage.ttrpc.connection import ClientConnection, Connection, ServerConnection
from dunnage.ttrpc.events import (
    CallFailed,
    RequestReceived,
    ResponseReceived,
    StreamReadable,
)
from dunnage.ttrpc.frames import (
    MAX_DATA_BYTES,
    Flag,
    Frame,
    FrameBuffer,
    FrameType,
    encode_frame,
)
from dunnage.ttrpc.services import Kind
from dunnage.ttrpc.wire_pb2 import Response

from .notes import LAST, data_frame, error_frame, request_frame, response_frame
from .test_events import CONNECT, CONNECT_DATA

CONNECT_FRAME = bytes.fromhex("00000055 00000001 01 00") + CONNECT_DATA
CONNECT_REPLY = bytes.fromhex("00000008 00000001 02 00 12 06 08 92 21 10 93 21")
EMPTY_REPLY = bytes.fromhex("00000000 00000003 02 00")
NOT_FOUND = bytes.fromhex("00000026 00000005 02 00 0a 24 08 05 12 20") + (
    b"container not created: not found"
)
TOO_LONG = f"message length {{}} exceed maximum message size of {MAX_DATA_BYTES}"


def output_of(connection: Connection) -> bytes:
    """Take everything that the connection wants to send."""
    output = b""
    while data := connection.data_to_send():
        output += data
        connection.data_sent(len(data))
    return output


def statuses_of(connection: ServerConnection) -> list[tuple[int, int, str]]:
    """Take the output as (stream id, code, text), one per response."""
    buffer = FrameBuffer()
    buffer.feed(output_of(connection))
    found = []
    for frame in buffer:
        assert isinstance(frame, Frame)
        assert frame.type == FrameType.RESPONSE
        status = Response.FromString(frame.data).status
        found.append((frame.stream_id, status.code, status.message))
    return found


def failure(client: ClientConnection, data: bytes) -> DunnageError:
    """Return the error of the one call that fails by ``data``."""
    (event,) = client.receive_data(data)
    assert isinstance(event, CallFailed)
    return event.error


class TestVectors:
    """The bytes that containerd sends and expects."""

    def test_client_sends_connect(self) -> None:
        """A call has the bytes of containerd's."""
        client = ClientConnection()
        stream_id = client.send_request(
            CONNECT.service,
            CONNECT.method,
            CONNECT.payload,
            timeout_ns=CONNECT.timeout_ns,
            metadata=CONNECT.metadata,
        )
        assert (stream_id, CONNECT_FRAME) == (1, output_of(client))

    def test_server_receives_connect(self) -> None:
        """The bytes of containerd's call are one request."""
        assert [CONNECT] == ServerConnection().receive_data(CONNECT_FRAME)

    def test_server_sends_replies(self) -> None:
        """A reply, an empty reply and an error have the bytes of the Go server's."""
        server = ServerConnection()
        server.receive_data(b"".join(map(request_frame, (1, 3, 5))))
        server.send_error(5, NotFound.code, NotFound("container not created").wire_text)
        server.send_response(3, b"")
        server.send_response(1, bytes.fromhex("08 92 21 10 93 21"))
        assert NOT_FOUND + EMPTY_REPLY + CONNECT_REPLY == output_of(server)

    def test_client_receives_replies(self) -> None:
        """The bytes of the Go server's answers are what they mean, in any order."""
        client = ClientConnection()
        ids = [client.send_request("s", "m", b"") for _ in range(3)]
        assert ids == [1, 3, 5]
        error = failure(client, NOT_FOUND)
        assert (type(error), error.message) == (NotFound, "container not created")
        assert [
            ResponseReceived(3),
            ResponseReceived(1, bytes.fromhex("08 92 21 10 93 21")),
        ] == client.receive_data(EMPTY_REPLY + CONNECT_REPLY)
        assert not client.in_flight


class TestServerRefuses:
    """Bad input is answered, and the connection lives on."""

    @pytest.mark.parametrize(
        ("data", "answers"),
        [
            pytest.param(
                struct.pack(">IIBB", MAX_DATA_BYTES + 1, 1, 1, 0)
                + bytes(MAX_DATA_BYTES + 1),
                [(1, 8, TOO_LONG.format(MAX_DATA_BYTES + 1))],
                id="too long",
            ),
            pytest.param(
                request_frame(0),
                [(0, 3, "StreamID must be odd for client initiated streams")],
                id="id 0",
            ),
            pytest.param(
                request_frame(2),
                [(2, 3, "StreamID must be odd for client initiated streams")],
                id="even id",
            ),
            pytest.param(
                encode_frame(Frame(1, FrameType.DATA, 0, b"x")),
                [(1, 3, "StreamID is no longer active")],
                id="data on an unknown stream",
            ),
            pytest.param(
                encode_frame(Frame(1, FrameType.RESPONSE, 0, b"x")), [], id="response"
            ),
            pytest.param(encode_frame(Frame(1, 0)), [], id="type 0"),
            pytest.param(encode_frame(Frame(1, 4)), [], id="type 4"),
            pytest.param(encode_frame(Frame(1, 255)), [], id="type 255"),
            pytest.param(encode_frame(Frame(2, 255)), [], id="type 255, even id"),
        ],
    )
    def test_by_itself(self, data: bytes, answers: list[tuple[int, int, str]]) -> None:
        """A frame that is no request is answered or ignored; the next one is served."""
        server = ServerConnection()
        assert server.receive_data(data) == []
        assert answers == statuses_of(server)
        assert [RequestReceived(1, "s", "m")] == server.receive_data(request_frame(1))

    def test_garbage_in_a_request_frame(self) -> None:
        """A request that cannot be read is code 3."""
        server = ServerConnection()
        frame = Frame(1, FrameType.REQUEST, 0, b"\xff")
        assert server.receive_data(encode_frame(frame)) == []
        ((stream_id, code, text),) = statuses_of(server)
        assert (stream_id, code) == (1, 3)
        assert text.startswith("unmarshal request error: ")

    def test_data_on_a_unary_call_in_flight(self) -> None:
        """Data for a unary call is code 3, and the call can still be answered."""
        server = ServerConnection()
        server.receive_data(request_frame(1))
        data = encode_frame(Frame(1, FrameType.DATA, Flag.REMOTE_CLOSED, b"x"))
        assert server.receive_data(data) == []
        server.send_response(1, b"")
        assert [
            (1, 3, "StreamID is of a unary call"),
            (1, 0, ""),
        ] == statuses_of(server)

    def test_an_id_in_flight(self) -> None:
        """A second request with an id in flight is code 3; the first one stays."""
        server = ServerConnection()
        server.receive_data(request_frame(3))
        assert server.receive_data(request_frame(3)) == []
        assert [(3, 3, "StreamID cannot be re-used and must increment")] == statuses_of(
            server
        )
        assert set(server.in_flight) == {3}

    def test_a_reply_that_is_too_long(self) -> None:
        """A reply that the peer could not take is answered with code 8."""
        server = ServerConnection()
        server.receive_data(request_frame(1))
        server.send_response(1, bytes(MAX_DATA_BYTES))
        ((stream_id, code, text),) = statuses_of(server)
        assert (stream_id, code) == (1, 8)
        assert text.startswith("message length ")
        assert not server.in_flight


class TestServerAccepts:
    """What is odd but no error."""

    def test_an_empty_request(self) -> None:
        """A request of no bytes names no service and no method."""
        empty = encode_frame(Frame(1, FrameType.REQUEST))
        assert [RequestReceived(1, "", "")] == ServerConnection().receive_data(empty)

    def test_ids_in_any_order(self) -> None:
        """Any odd id is good that is not in flight, used before or not."""
        server = ServerConnection()
        for stream_id in (5, 3, 0xFFFF_FFFF, 5):
            (event,) = server.receive_data(request_frame(stream_id))
            assert event.stream_id == stream_id
            server.send_response(stream_id, b"")

    def test_unknown_flags(self) -> None:
        """Flags on a unary request change nothing."""
        frame = Frame(1, FrameType.REQUEST, 0xFF, b"")
        (event,) = ServerConnection().receive_data(encode_frame(frame))
        assert event == RequestReceived(1, "", "")

    def test_the_longest_reply(self) -> None:
        """A response of exactly 4 MiB is sent."""
        server = ServerConnection()
        server.receive_data(request_frame(1))
        overhead = len(Response(payload=bytes(1 << 22)).SerializeToString()) - (1 << 22)
        server.send_response(1, bytes(MAX_DATA_BYTES - overhead))
        assert MAX_DATA_BYTES + 10 == server.queued_bytes

    def test_text_that_is_no_utf8(self) -> None:
        """A file name that is no UTF-8 is readable in the error that names it."""
        server = ServerConnection()
        server.receive_data(request_frame(1))
        server.send_error(1, 5, "no \udcff")
        assert [(1, 5, "no \\udcff")] == statuses_of(server)


class TestClient:
    """What a client makes of answers."""

    def test_answers_that_nobody_waits_for_are_dropped(self) -> None:
        """Unknown and abandoned calls, and what is no response, are no events."""
        client = ClientConnection()
        first = client.send_request("s", "m", b"")
        client.send_request("s", "m", b"")
        client.abandon(first)
        ignored = (
            response_frame(first)
            + response_frame(99)
            + request_frame(3)
            + encode_frame(Frame(3, 200))
        )
        assert client.receive_data(ignored) == []
        assert client.in_flight == {3}

    def test_an_answer_that_cannot_be_read(self) -> None:
        """Garbage in a response is the peer's fault, and ends its call only."""
        client = ClientConnection()
        client.send_request("s", "m", b"")
        client.send_request("s", "m", b"")
        garbage = encode_frame(Frame(1, FrameType.RESPONSE, 0, b"\xff"))
        assert isinstance(failure(client, garbage), RemoteProtocolError)
        assert [ResponseReceived(3)] == client.receive_data(response_frame(3))

    def test_an_answer_that_is_a_stream(self) -> None:
        """Data in answer to a unary call is the peer's fault."""
        client = ClientConnection()
        client.send_request("s", "m", b"")
        data = encode_frame(Frame(1, FrameType.DATA, 0, b"x"))
        assert isinstance(failure(client, data), RemoteProtocolError)

    def test_an_answer_that_is_too_long(self) -> None:
        """A response above 4 MiB fails its call with code 8."""
        client = ClientConnection()
        client.send_request("s", "m", b"")
        length = MAX_DATA_BYTES + 1
        head = struct.pack(">IIBB", length, 1, FrameType.RESPONSE, 0)
        error = failure(client, head + bytes(length))
        assert isinstance(error, ResourceExhausted)
        assert error.message == TOO_LONG.format(length)

    def test_a_code_that_grpc_does_not_have(self) -> None:
        """A code that is not defined is Unknown, with its text."""
        client = ClientConnection()
        client.send_request("s", "m", b"")
        error = failure(client, error_frame(1, -7, "what?"))
        assert (type(error), error.message) == (Unknown, "what?")

    def test_a_request_that_is_too_long(self) -> None:
        """A request above 4 MiB is refused here, and takes no id."""
        client = ClientConnection()
        with pytest.raises(ResourceExhausted):
            client.send_request("s", "m", bytes(MAX_DATA_BYTES))
        assert (client.queued_bytes, client.in_flight) == (0, set())
        assert client.send_request("s", "m", b"") == 1

    def test_ids_run_out(self) -> None:
        """After the last id there is no call, rather than an id twice."""
        client = ClientConnection()
        client._next_id = 0xFFFF_FFFF
        assert client.send_request("s", "m", b"") == 0xFFFF_FFFF
        with pytest.raises(ResourceExhausted):
            client.send_request("s", "m", b"")


def opened(stream_id: int = 1) -> ServerConnection:
    """Return a server with an open stream."""
    server = ServerConnection()
    data = request_frame(stream_id, flags=Flag.REMOTE_OPEN)
    (event,) = server.receive_data(data)
    assert RequestReceived(stream_id, "s", "m", is_open=True) == event
    return server


class TestServerStreams:
    """Streams as the called end sees them."""

    def test_messages_and_the_end(self) -> None:
        """Messages are taken in order, then the end; nothing is there before."""
        server = opened()
        assert server.take(1) is None
        data = data_frame(1, b"a") + data_frame(1) + data_frame(1, flags=LAST)
        assert [StreamReadable(1)] * 3 == server.receive_data(data)
        assert [b"a", b""] == [server.take(1), server.take(1)]
        with pytest.raises(EndOfStream):
            server.take(1)
        assert set(server.in_flight) == {1}

    def test_the_last_message_may_say_so(self) -> None:
        """A message with the flag of the end is a message and the end."""
        server = opened()
        data = data_frame(1, b"a", Flag.REMOTE_CLOSED)
        assert [StreamReadable(1)] == server.receive_data(data)
        assert server.take(1) == b"a"
        with pytest.raises(EndOfStream):
            server.take(1)

    def test_a_frame_that_says_nothing(self) -> None:
        """No message and no end is no event."""
        assert [] == opened().receive_data(data_frame(1, flags=Flag.NO_DATA))

    @pytest.mark.parametrize("flags", [0, Flag.REMOTE_CLOSED, 0xFF])
    def test_a_request_that_is_not_open(self, flags: int) -> None:
        """Only the flag of an open stream makes one."""
        server = ServerConnection()
        server.receive_data(request_frame(1, flags=flags))
        with pytest.raises(EndOfStream):
            server.take(1)
        assert [] == server.receive_data(data_frame(1, b"x"))
        assert [(1, 3, "StreamID is of a unary call")] == statuses_of(server)

    def test_data_after_the_end(self) -> None:
        """Data after the end fails the stream, with one answer."""
        server = opened()
        data = data_frame(1, flags=LAST) + data_frame(1, b"x")
        readable, failed = server.receive_data(data)
        assert readable == StreamReadable(1)
        assert isinstance(failed, CallFailed)
        assert [(1, 3, "data after its stream's end")] == statuses_of(server)
        assert not server.in_flight

    def test_data_that_is_too_long(self) -> None:
        """A message that had to be skipped fails its stream: no hole goes unseen."""
        server = opened()
        length = MAX_DATA_BYTES + 1
        head = struct.pack(">IIBB", length, 1, FrameType.DATA, 0)
        (event,) = server.receive_data(head + bytes(length))
        assert isinstance(event, CallFailed)
        assert [(1, 8, TOO_LONG.format(length))] == statuses_of(server)

    def test_replies(self) -> None:
        """Messages and the end have the bytes of the Go server's."""
        server = opened()
        server.send_message(1, b"a")
        server.send_message(1, b"")
        server.end_stream(1)
        expected = data_frame(1, b"a") + data_frame(1) + data_frame(1, flags=LAST)
        assert expected == output_of(server)
        with pytest.raises(LocalProtocolError):
            server.send_message(1, b"late")

    def test_a_message_that_is_too_long(self) -> None:
        """A message above 4 MiB is refused here, and the stream goes on."""
        server = opened()
        with pytest.raises(ResourceExhausted):
            server.send_message(1, bytes(MAX_DATA_BYTES + 1))
        server.send_message(1, bytes(MAX_DATA_BYTES))
        assert MAX_DATA_BYTES + 10 == server.queued_bytes

    def test_closed_input(self) -> None:
        """A method that takes no messages can refuse them."""
        server = opened()
        server.close_input(1)
        assert [] == server.receive_data(data_frame(1, b"x"))
        assert [(1, 3, "StreamID is of a unary call")] == statuses_of(server)

    def test_the_id_of_an_answered_stream(self) -> None:
        """After its answer a stream is unknown, whatever the peer still sends."""
        server = opened()
        server.send_response(1, b"")
        output_of(server)
        assert [] == server.receive_data(data_frame(1, b"x"))
        assert [(1, 3, "StreamID is no longer active")] == statuses_of(server)


class TestClientStreams:
    """Streams as the calling end sees them."""

    @pytest.mark.parametrize(
        ("kind", "flags"),
        [
            (Kind.UNARY, 0),
            (Kind.SERVER_STREAM, Flag.REMOTE_CLOSED),
            (Kind.CLIENT_STREAM, Flag.REMOTE_OPEN),
            (Kind.BOTH_STREAM, Flag.REMOTE_OPEN),
        ],
    )
    def test_what_opens(self, kind: Kind, flags: int) -> None:
        """The request says by its flags what will follow."""
        client = ClientConnection()
        client.send_request("s", "m", b"", kind=kind)
        assert request_frame(1, flags=flags) == output_of(client)

    def test_what_is_sent(self) -> None:
        """Messages go out one by one, and the end by itself."""
        client = ClientConnection()
        client.send_request("s", "m", b"", kind=Kind.CLIENT_STREAM)
        output_of(client)
        client.send_message(1, b"a")
        client.end_messages(1)
        assert data_frame(1, b"a") + data_frame(1, flags=LAST) == output_of(client)
        with pytest.raises(LocalProtocolError):
            client.end_messages(1)
        for stream_id in (1, 3):
            with pytest.raises(LocalProtocolError):
                client.send_message(stream_id, b"late")

    def test_one_reply(self) -> None:
        """The response to a stream of requests is its one message."""
        client = ClientConnection()
        client.send_request("s", "m", b"", kind=Kind.CLIENT_STREAM)
        assert [StreamReadable(1)] == client.receive_data(response_frame(1, b"sum"))
        assert client.take(1) == b"sum"
        with pytest.raises(EndOfStream):
            client.take(1)
        assert not client.in_flight

    def test_more_than_one_reply(self) -> None:
        """Data where one reply is due is the peer's fault."""
        client = ClientConnection()
        client.send_request("s", "m", b"", kind=Kind.CLIENT_STREAM)
        assert [StreamReadable(1)] == client.receive_data(data_frame(1, b"x"))
        with pytest.raises(RemoteProtocolError):
            client.take(1)

    @pytest.mark.parametrize(
        "end",
        [
            data_frame(1, b"b") + data_frame(1, flags=LAST),
            data_frame(1, b"b", Flag.REMOTE_CLOSED),
            response_frame(1, b"b"),
        ],
    )
    def test_many_replies(self, end: bytes) -> None:
        """All the ways in which servers end a stream are the same to us."""
        client = ClientConnection()
        client.send_request("s", "m", b"", kind=Kind.SERVER_STREAM)
        client.receive_data(data_frame(1, b"a") + end + data_frame(1, b"late"))
        assert [b"a", b"b"] == [client.take(1), client.take(1)]
        with pytest.raises(EndOfStream):
            client.take(1)
        assert not client.in_flight

    def test_an_error_after_messages(self) -> None:
        """What came before an error is taken before it; sending raises it at once."""
        client = ClientConnection()
        client.send_request("s", "m", b"", kind=Kind.BOTH_STREAM)
        data = data_frame(1, b"a") + error_frame(1, 5, "x: not found")
        assert [StreamReadable(1)] * 2 == client.receive_data(data)
        with pytest.raises(NotFound):
            client.send_message(1, b"")
        assert client.take(1) == b"a"
        with pytest.raises(NotFound, match=r"^x$"):
            client.take(1)
        client.end_messages(1)  # harmless: who ends cannot know yet

    def test_frames_that_cannot_be_used(self) -> None:
        """Garbage and what is too long fail the stream; the unknown is ignored."""
        client = ClientConnection()
        for _ in range(3):
            client.send_request("s", "m", b"", kind=Kind.SERVER_STREAM)
        length = MAX_DATA_BYTES + 1
        client.receive_data(
            encode_frame(Frame(1, FrameType.RESPONSE, 0, b"\xff"))
            + struct.pack(">IIBB", length, 3, FrameType.DATA, 0)
            + bytes(length)
            + encode_frame(Frame(5, 77))
            + data_frame(5, flags=Flag.NO_DATA)
        )
        with pytest.raises(RemoteProtocolError):
            client.take(1)
        with pytest.raises(ResourceExhausted):
            client.take(3)
        assert (client.take(5), client.in_flight) == (None, {5})

    def test_given_up(self) -> None:
        """A stream that was given up drops what comes, and says why."""
        client = ClientConnection()
        client.send_request("s", "m", b"", kind=Kind.SERVER_STREAM)
        client.receive_data(data_frame(1, b"a"))
        client.give_up(1, ResourceExhausted("full"))
        assert [] == client.receive_data(data_frame(1, b"b"))
        assert client.take(1) == b"a"
        with pytest.raises(ResourceExhausted):
            client.take(1)
        client.abandon(1)
        client.give_up(1, ResourceExhausted("full"))
        with pytest.raises(EndOfStream):
            client.take(1)


class TestMisuse:
    """The caller's own faults."""

    @pytest.mark.parametrize("stream_id", [1, 2, 3])
    def test_an_answer_to_nothing(self, stream_id: int) -> None:
        """Only a request in flight can be answered, and only once."""
        server = ServerConnection()
        server.receive_data(request_frame(1))
        server.send_response(1, b"")
        with pytest.raises(LocalProtocolError):
            server.send_response(stream_id, b"")

    def test_an_error_that_is_none(self) -> None:
        """Code 0 is no error, and the request stays in flight."""
        server = ServerConnection()
        server.receive_data(request_frame(1))
        with pytest.raises(LocalProtocolError):
            server.send_error(1, 0, "fine")
        assert set(server.in_flight) == {1}

    def test_metadata_that_cannot_be_sent(self) -> None:
        """Metadata that is no text is refused, and takes no id."""
        client = ClientConnection()
        with pytest.raises(LocalProtocolError):
            client.send_request("s", "m", b"", metadata=[("key", "\udcff")])
        assert client.send_request("s", "m", b"") == 1

    def test_more_written_than_queued(self) -> None:
        """One cannot have written more than there was."""
        with pytest.raises(LocalProtocolError):
            ClientConnection().data_sent(1)

    def test_anything_after_the_end(self) -> None:
        """Nothing goes in or out after the end."""
        server, client = ServerConnection(), ClientConnection()
        server.receive_data(request_frame(1))
        server.receive_eof()
        client.receive_eof()
        for action in (
            lambda: server.receive_data(b""),
            lambda: server.send_response(1, b""),
            lambda: server.send_error(1, 2, ""),
            server.receive_eof,
            server.to_bytes,
            lambda: client.send_request("s", "m", b""),
        ):
            with pytest.raises(LocalProtocolError):
                action()


@pytest.mark.parametrize("end", [ServerConnection, ClientConnection])
@pytest.mark.parametrize("data", [b"\0", request_frame(1)[:-1], b"\xff" * 10])
def test_the_end_in_the_middle_of_a_frame(
    end: type[ServerConnection | ClientConnection], data: bytes
) -> None:
    """A frame that is cut by the end of the connection is the peer's fault."""
    connection = end()
    assert connection.receive_data(data) == []
    with pytest.raises(RemoteProtocolError):
        connection.receive_eof()


class TestHandover:
    """The whole state as bytes and back."""

    def test_a_server_in_the_middle_of_everything(self) -> None:
        """A successor answers what was in flight, writes what was queued, reads on."""
        first = ServerConnection()
        first.receive_data(CONNECT_FRAME + request_frame(3) + request_frame(5)[:4])
        first.send_response(3, b"")
        first.data_sent(4)
        second = ServerConnection.from_bytes(first.to_bytes())
        assert {1: CONNECT} == second.in_flight
        (event,) = second.receive_data(request_frame(5)[4:])
        assert event.stream_id == 5
        second.send_response(1, bytes.fromhex("08 92 21 10 93 21"))
        assert EMPTY_REPLY[4:] + CONNECT_REPLY == output_of(second)

    def test_a_client_in_the_middle_of_everything(self) -> None:
        """A successor gets the answers, and takes the next id."""
        first = ClientConnection()
        first.send_request("s", "m", b"")
        first.send_request("s", "m", b"")
        first.receive_data(response_frame(3, b"x")[:5])
        second = ClientConnection.from_bytes(first.to_bytes())
        assert output_of(first) == output_of(second)
        expected = [ResponseReceived(3, b"x")]
        assert expected == second.receive_data(response_frame(3, b"x")[5:])
        assert (second.in_flight, second.send_request("s", "m", b"")) == ({1}, 5)

    def test_a_server_in_the_middle_of_a_stream(self) -> None:
        """A successor has what was unread, and goes on in both directions."""
        first = opened()
        first.receive_data(data_frame(1, b"a") + data_frame(1, b"b")[:5])
        second = ServerConnection.from_bytes(first.to_bytes())
        assert second.in_flight == first.in_flight
        second.receive_data(data_frame(1, b"b")[5:] + data_frame(1, flags=LAST))
        assert [b"a", b"b"] == [second.take(1), second.take(1)]
        with pytest.raises(EndOfStream):
            second.take(1)
        second.end_stream(1)
        assert data_frame(1, flags=LAST) == output_of(second)

    def test_a_client_in_the_middle_of_a_stream(self) -> None:
        """A successor has what was unread, and goes on in both directions."""
        first = ClientConnection()
        first.send_request("s", "m", b"", kind=Kind.BOTH_STREAM)
        first.send_request("s", "m", b"", kind=Kind.CLIENT_STREAM)
        first.receive_data(data_frame(1, b"a"))
        second = ClientConnection.from_bytes(first.to_bytes())
        output_of(second)
        second.send_message(3, b"x")
        assert data_frame(3, b"x") == output_of(second)
        second.receive_data(data_frame(1, flags=LAST) + data_frame(3, b"wrong"))
        assert second.take(1) == b"a"
        with pytest.raises(EndOfStream):
            second.take(1)
        with pytest.raises(RemoteProtocolError):
            second.take(3)

    def test_in_the_middle_of_a_skip(self) -> None:
        """A successor ends the skip of a frame that was too long."""
        length = MAX_DATA_BYTES + 1
        first = ServerConnection()
        first.receive_data(struct.pack(">IIBB", length, 1, 1, 0) + bytes(1000))
        second = ServerConnection.from_bytes(first.to_bytes())
        events = second.receive_data(bytes(length - 1000) + request_frame(3))
        assert [RequestReceived(3, "s", "m")] == events
        assert [(1, 8, TOO_LONG.format(length))] == statuses_of(second)

    @pytest.mark.parametrize(
        "data",
        [b"", b"{}", b"[]", b"\xff", ClientConnection().to_bytes(), b'{"version": 3}'],
    )
    def test_what_is_no_state(self, data: bytes) -> None:
        """Anything else, the other end's state included, is DataLoss."""
        with pytest.raises(DataLoss):
            ServerConnection.from_bytes(data)
