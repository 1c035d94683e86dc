"""One contract: whatever bytes come, however chunked: events or RemoteProtocolError."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ttrpc.notes import data_frame, error_frame, request_frame, response_frame

from dunnage.errors import DataLoss, DunnageError, RemoteProtocolError, from_status
from dunnage.ttrpc.connection import ClientConnection, ServerConnection
from dunnage.ttrpc.events import CallFailed, RequestReceived, ResponseReceived
from dunnage.ttrpc.frames import (
    MAX_DATA_BYTES,
    Frame,
    FrameBuffer,
    encode_frame,
)
from dunnage.ttrpc.services import Kind

End: TypeAlias = ServerConnection | ClientConnection

REPEATABLE = settings(deadline=None, derandomize=True, max_examples=200)

# Few ids, so that frames meet on them; the client's calls in flight are 1 to 9.
IDS = st.one_of(st.integers(0, 10), st.just(0xFFFF_FFFF))
TEXT = st.text(max_size=10)
ANY_FRAME = st.builds(
    Frame, IDS, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=20)
).map(encode_frame)
REQUEST = st.builds(request_frame, IDS, TEXT, TEXT, st.binary(max_size=20))
FLAGS = st.integers(0, 7)
OPENING = st.builds(request_frame, IDS, TEXT, TEXT, st.binary(max_size=20), FLAGS)
MESSAGE = st.builds(data_frame, IDS, st.binary(max_size=20), FLAGS)
RESPONSE = st.builds(response_frame, IDS, st.binary(max_size=20))
ERROR = st.builds(error_frame, IDS, st.integers(-(2**31), 2**31 - 1), TEXT)
HEADER = st.builds(
    struct.Struct(">IIBB").pack,
    st.one_of(st.integers(0, 30), st.integers(MAX_DATA_BYTES - 1, 0xFFFF_FFFF)),
    IDS,
    st.integers(0, 4),
    st.integers(0, 255),
)
INPUT = st.lists(
    st.one_of(
        ANY_FRAME,
        REQUEST,
        OPENING,
        MESSAGE,
        RESPONSE,
        ERROR,
        HEADER,
        st.binary(max_size=20),
    ),
    max_size=12,
).map(b"".join)
CUTS = st.lists(st.integers(0, 300), max_size=20)
ENDS = st.sampled_from(["server", "client"])


def new_end(role: str) -> End:
    """Return a connection; a client with calls of every kind in flight."""
    if role == "server":
        return ServerConnection()
    client = ClientConnection()
    for kind in (*Kind, Kind.UNARY):
        client.send_request("s", "m", b"", kind=kind)
    return client


def taken(connection: End) -> list[str]:
    """Take everything from the streams that may be there; return it as texts."""
    found = []
    for stream_id in range(11):
        try:
            while (payload := connection.take(stream_id)) is not None:
                found.append(f"{stream_id}: {payload!r}")
        except DunnageError as error:
            # By code: which class of that code is lost when a state is handed over.
            found.append(f"{stream_id}: {error.code} {error.message}")
    return found


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """Return the data in pieces."""
    places = sorted({0, len(data), *(place for place in at if place < len(data))})
    return [data[start:end] for start, end in pairwise(places)]


def output_of(connection: End) -> bytes:
    """Take everything that the connection wants to send."""
    output = b""
    while data := connection.data_to_send():
        output += data
        connection.data_sent(len(data))
    return output


def play(connection: End, chunks: Iterable[bytes]) -> tuple[list[str], bytes]:
    """Feed chunks and the end; return what could be seen, as texts, and the output."""
    seen = [repr(event) for chunk in chunks for event in connection.receive_data(chunk)]
    try:
        connection.receive_eof()
        seen.append("a whole end")
    except RemoteProtocolError:
        seen.append("an end in the middle")
    return seen + taken(connection), output_of(connection)


@REPEATABLE
@given(role=ENDS, data=INPUT, cuts=CUTS)
def test_chunks_do_not_matter(role: str, data: bytes, cuts: list[int]) -> None:
    """In one piece, in any, byte by byte: the same events and the same output."""
    whole = play(new_end(role), [data])
    assert whole == play(new_end(role), cut(data, cuts))
    assert whole == play(new_end(role), [bytes([byte]) for byte in data])


@REPEATABLE
@given(role=ENDS, data=st.binary(max_size=400), cuts=CUTS)
def test_garbage_is_events_or_the_peers_fault(
    role: str, data: bytes, cuts: list[int]
) -> None:
    """Random bytes raise nothing but RemoteProtocolError."""
    play(new_end(role), cut(data, cuts))


@REPEATABLE
@given(role=ENDS, data=INPUT, at=st.integers(0, 300))
def test_a_successor_sees_what_the_first_would_have_seen(
    role: str, data: bytes, at: int
) -> None:
    """Handing over between any two bytes changes nothing."""
    whole = play(new_end(role), [data])
    first = new_end(role)
    before = first.receive_data(data[:at])
    second = type(first).from_bytes(first.to_bytes())
    seen, output = play(second, [data[at:]])
    assert whole == ([*map(repr, before), *seen], output)


@REPEATABLE
@given(
    role=ENDS,
    key=st.sampled_from(
        ["version", "role", "unread", "dropped_bytes", "calls", "streams"]
    ),
    value=st.one_of(st.none(), st.text(max_size=5), st.lists(st.integers())),
)
def test_a_damaged_state_is_data_loss(role: str, key: str, value: object) -> None:
    """A state with a field of another kind is DataLoss, or still a state."""
    end = new_end(role)
    state = json.loads(end.to_bytes())
    state[key] = value
    with suppress(DataLoss):
        type(end).from_bytes(json.dumps(state).encode())


@REPEATABLE
@given(data=st.lists(REQUEST, max_size=12).map(b"".join))
def test_every_request_is_answered_once(data: bytes) -> None:
    """Of good requests, each is one event or one refusal."""
    server = ServerConnection()
    events = server.receive_data(data)
    assert {event.stream_id for event in events} == set(server.in_flight)
    for event in events:
        server.send_response(event.stream_id, b"")
    sent, answered = FrameBuffer(), FrameBuffer()
    sent.feed(data)
    answered.feed(output_of(server))
    ids = [frame.stream_id for frame in sent]
    assert sorted(ids) == sorted(frame.stream_id for frame in answered)


@REPEATABLE
@given(
    calls=st.lists(
        st.builds(
            RequestReceived,
            st.just(0),
            TEXT,
            TEXT,
            st.binary(max_size=50),
            st.integers(-(2**63), 2**63 - 1),
            st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
        ),
        max_size=8,
    ),
    cuts=CUTS,
    data=st.data(),
)
def test_two_ends_understand_each_other(
    calls: list[RequestReceived], cuts: list[int], data: st.DataObject
) -> None:
    """Every call arrives as it was made, and so does every answer, in any order."""
    client, server = ClientConnection(), ServerConnection()
    made = []
    for call in calls:
        stream_id = client.send_request(
            call.service,
            call.method,
            call.payload,
            timeout_ns=call.timeout_ns,
            metadata=call.metadata,
        )
        made.append(replace(call, stream_id=stream_id))
    chunks = cut(output_of(client), cuts)
    assert made == [event for chunk in chunks for event in server.receive_data(chunk)]
    expected = []
    for call in data.draw(st.permutations(made)):
        stream_id, code = call.stream_id, data.draw(st.integers(0, 20))
        text = data.draw(TEXT)
        if code:
            server.send_error(stream_id, code, text)
            expected.append(repr(CallFailed(stream_id, from_status(code, text))))
        else:
            server.send_response(stream_id, text.encode())
            expected.append(repr(ResponseReceived(stream_id, text.encode())))
    chunks = cut(output_of(server), cuts)
    answers = [event for chunk in chunks for event in client.receive_data(chunk)]
    assert expected == [*map(repr, answers)]
    assert (set(), {}) == (client.in_flight, server.in_flight)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["request", "reply", "no more requests", "end", "hand over"]),
        st.binary(max_size=30),
    ),
    max_size=15,
)


@REPEATABLE
@given(steps=STEPS, cuts=CUTS)
def test_a_stream_is_what_was_sent(
    steps: list[tuple[str, bytes]], cuts: list[int]
) -> None:
    """Both ways, in any interleaving and chunks: what is taken is what was sent.

    Invariant (nothing-overtakes): in order, and the end after all of it.
    """
    client, server = ClientConnection(), ServerConnection()
    stream_id = client.send_request("s", "m", b"", kind=Kind.BOTH_STREAM)
    sent: dict[str, list[str]] = {"request": [], "reply": []}
    received: dict[str, list[str]] = {"request": [], "reply": []}
    sending = {"request", "reply"}

    def move(source: End, target: End) -> None:
        for chunk in cut(output_of(source), cuts):
            target.receive_data(chunk)

    move(client, server)
    for step, payload in steps:
        if step == "hand over":
            client = ClientConnection.from_bytes(client.to_bytes())
            server = ServerConnection.from_bytes(server.to_bytes())
        elif step == "no more requests" and "request" in sending:
            client.end_messages(stream_id)
            sending.remove("request")
        elif step == "end":
            break
        elif step in sending:
            end = client if step == "request" else server
            end.send_message(stream_id, payload)
            sent[step].append(f"{stream_id}: {payload!r}")
        move(client, server)
        move(server, client)
        if len(payload) % 2:  # sometimes at once, sometimes late
            received["request"] += taken(server)
    received["request"] += taken(server)
    server.end_stream(stream_id)
    move(server, client)
    received["reply"] += taken(client)
    for side, texts in received.items():
        assert sent[side] == [text for text in texts if ": b" in text]
    assert (set(), {}) == (client.in_flight, server.in_flight)
