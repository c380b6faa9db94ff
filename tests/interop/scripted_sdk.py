#!/usr/bin/env python3
"""A scripted SDK against a running node, with nothing but Python's standard library.

Usage: scripted_sdk.py HOST PORT CERTIFICATES CURVE...

It behaves as FISCO BCOS' Python SDK does: secp256k1 is the only ECDHE group that it offers, and it reads
one TLS record and takes it for one message. Then it behaves as the Go SDK does: reads of 4,096 bytes, one
frame decoded per beginning, under a flood.
"""

import json
import os
import socket
import ssl
import struct
import sys
import threading
import uuid

RPC, HEARTBEAT, HANDSHAKE, REQUEST, RESPONSE, SUBSCRIBE, MULTICAST = 0x12, 0x13, 0x14, 0x30, 0x31, 0x32, 0x35


def connect(host, port, certificates, curve="secp256k1"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.load_verify_locations(os.path.join(certificates, "ca.crt"))
    context.load_cert_chain(os.path.join(certificates, "sdk.crt"), os.path.join(certificates, "sdk.key"))
    context.set_ecdh_curve(curve)
    link = context.wrap_socket(socket.create_connection((host, port), timeout=30))
    link.settimeout(30)
    return link


def seq():
    return uuid.uuid4().hex.encode()


def frame(kind, number, data, result=0):
    return struct.pack(">IH32si", 42 + len(data), kind, number, result) + data


def amop(topic, payload):
    name = topic.encode()
    return bytes([len(name) + 1]) + name + payload


def receive(link):
    """One message as the Python SDK reads it: one record, which must hold just this frame."""
    data = link.recv(16384)
    assert len(data) >= 42, f"a record of {len(data)} bytes is no frame"
    length, kind, number, result = struct.unpack(">IH32si", data[:42])
    while len(data) < length:
        more = link.recv(16384)
        assert more, "the node closed the connection in a frame"
        data += more
    assert len(data) == length, "a record holds more than its frame"
    return kind, number, result, data[42:]


def ask(link, kind, data):
    number = seq()
    link.sendall(frame(kind, number, data))
    got, answered, result, body = receive(link)
    assert (got, answered) == (kind, number), f"asked {kind:#x}, answered {got:#x}"
    return result, body


def talk(host, port, certificates, curves):
    for curve in curves:
        connect(host, port, certificates, curve).close()
    link = connect(host, port, certificates)
    assert ask(link, HEARTBEAT, b"0") == (0, b"1"), "heartbeat of protocol 1"
    for maximum in (1, 2, 3):
        hello = json.dumps({"minimumSupport": 1, "maximumSupport": maximum, "clientType": "python"})
        result, body = ask(link, HANDSHAKE, hello.encode())
        assert result == 0 and json.loads(body) == {"nodeVersion": "2.10.2", "protocol": maximum}
    assert ask(link, HEARTBEAT, b"0") == (0, b'{"heartBeat":1}\n'), "heartbeat of protocol 3"
    request = {"jsonrpc": "2.0", "method": "getClientVersion", "params": [], "id": 1}
    result, body = ask(link, RPC, json.dumps(request).encode())
    assert result == 0 and json.loads(body)["result"]["Supported Version"] == "2.10.2"

    topic = "interop-" + uuid.uuid4().hex
    publisher = connect(host, port, certificates)
    number = seq()
    publisher.sendall(frame(REQUEST, number, amop(topic, b"anybody?")))
    assert receive(publisher) == (RESPONSE, number, 100, b""), "a topic that nobody has"
    link.sendall(frame(SUBSCRIBE, seq(), json.dumps([topic]).encode()))
    while True:  # a subscription has no answer
        number = seq()
        publisher.sendall(frame(MULTICAST, number, amop(topic, b"ready?")))
        assert receive(publisher) == (RESPONSE, number, 0, amop(topic, b""))
        link.settimeout(0.2)
        try:
            kind, got, result, body = receive(link)
            break
        except TimeoutError:
            continue
    link.settimeout(30)
    assert (kind, body) == (MULTICAST, amop(topic, b"ready?"))
    for size in (0, 5, 256, 16384, 100_000, 1_000_000):
        payload = os.urandom(size)
        number = seq()
        publisher.sendall(frame(REQUEST, number, amop(topic, payload)))
        kind, got, result, body = receive(link)
        assert (kind, got, result, body) == (REQUEST, number, 0, amop(topic, payload)), f"{size} bytes pushed"
        link.sendall(frame(RESPONSE, number, amop(topic, payload[::-1])))
        assert receive(publisher) == (RESPONSE, number, 0, amop(topic, payload[::-1])), f"{size} bytes answered"
    flood(link, publisher, topic)


def flood(link, publisher, topic, count=1200):
    """A reader as in the Go SDK: each read gives at most one record; a frame begins where a read begins."""

    def send():
        for index in range(count):
            size = (10, 200, 3000, 17000)[index % 4]  # below what a node queues for one session
            publisher.sendall(frame(MULTICAST, seq(), amop(topic, index.to_bytes(4, "big") + bytes(size))))

    def drain():
        for _ in range(count):
            assert receive(publisher)[2] == 0

    threads = [threading.Thread(target=send), threading.Thread(target=drain)]
    for thread in threads:
        thread.start()
    for index in range(count):
        data = link.recv(4096)
        length = struct.unpack(">I", data[:4])[0]
        assert 42 <= length < 1 << 20, f"a read begins with {data[:8]!r}, which is no frame"
        while len(data) < length:
            data += link.recv(4096)
        assert len(data) == length, "a read went beyond its frame"
        offset = 42 + 1 + len(topic)
        assert int.from_bytes(data[offset:offset + 4], "big") == index, "out of order"
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    talk(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
    print("the scripted SDK is content")
