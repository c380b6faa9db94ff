"""Applications of the C library of FISCO BCOS 3.x (bcos_sdk_*, bcos_amop_*) under the hand of tests/interop, by the same lines of JSON
as the Java applications. They decide nothing and check nothing; the test does.

usage: c_sdk.py JAR, where JAR is org.fisco-bcos:bcos-sdk-jni, which brings the library
"""

import ctypes
import json
import os
import platform
import sys
import threading
import traceback
import zipfile


class Response(ctypes.Structure):
    """What callbacks are given."""

    _fields_ = [
        ("error", ctypes.c_int),
        ("description", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("context", ctypes.c_void_p),
    ]

    def bytes(self):
        return ctypes.string_at(self.data, self.size) if self.size else b""


ON_MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Response))
ON_ANSWER = ctypes.CFUNCTYPE(None, ctypes.POINTER(Response))


def load(jar):
    suffix = "-aarch64" if platform.machine() in ("aarch64", "arm64") else ""
    name = f"META-INF/native/libbcos-sdk-jni{suffix}.so"
    with zipfile.ZipFile(jar) as archive:
        library = ctypes.CDLL(archive.extract(name))
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    texts = ctypes.POINTER(ctypes.c_char_p)
    for function, result, arguments in [
        ("bcos_sdk_create_by_config_file", pointer, [text]),
        ("bcos_sdk_start", None, [pointer]),
        ("bcos_sdk_destroy", None, [pointer]),
        ("bcos_sdk_get_last_error", ctypes.c_int, []),
        ("bcos_sdk_get_last_error_msg", text, []),
        ("bcos_amop_subscribe_topic_with_cb", None, [pointer, text, ON_MESSAGE, pointer]),
        ("bcos_amop_unsubscribe_topic", None, [pointer, texts, size]),
        ("bcos_amop_publish", None, [pointer, text, text, size, ctypes.c_uint32, ON_ANSWER, pointer]),
        ("bcos_amop_broadcast", None, [pointer, text, text, size]),
        ("bcos_amop_send_response", None, [pointer, text, text, text, size]),
    ]:
        declared = getattr(library, function)
        declared.restype, declared.argtypes = result, arguments
    return library


class Application:
    def __init__(self, number, library):
        self.number = number
        self.library = library
        self.sdk = None
        # The library calls them from threads of its own, as long as it lives.
        self.callbacks = []
        self.held = []

    def report(self, event, **fields):
        line = json.dumps({"application": self.number, "event": event, **fields})
        with WRITING:
            print(line, flush=True)

    def check(self):
        if self.library.bcos_sdk_get_last_error():
            raise RuntimeError(self.library.bcos_sdk_get_last_error_msg().decode())

    def kept(self, callback):
        self.callbacks.append(callback)
        return callback

    def obey(self, command):
        library = self.library
        topic = command.get("topic", "").encode()
        payload = bytes.fromhex(command.get("payload", ""))
        match command["do"]:
            case "connect":
                self.sdk = library.bcos_sdk_create_by_config_file(command["config"].encode())
                self.check()
                library.bcos_sdk_start(self.sdk)
                self.check()
                self.report("connected")
            case "subscribe":
                on_message = self.receiver(command["topic"], command.get("hold", False))
                library.bcos_amop_subscribe_topic_with_cb(self.sdk, topic, on_message, None)
            case "unsubscribe":
                library.bcos_amop_unsubscribe_topic(self.sdk, (ctypes.c_char_p * 1)(topic), 1)
            case "unicast":
                on_answer = self.answers(command["id"])
                library.bcos_amop_publish(self.sdk, topic, payload, len(payload), command["timeout_ms"], on_answer, None)
            case "broadcast":
                library.bcos_amop_broadcast(self.sdk, topic, payload, len(payload))
            case "release":
                for answer in self.held:
                    library.bcos_amop_send_response(self.sdk, *answer)
                self.held.clear()
            case "stop":
                # To stop it leaves its connections open, and silent.
                library.bcos_sdk_destroy(self.sdk)
                self.report("stopped")
            case other:
                raise ValueError(other)
        self.check()

    def receiver(self, topic, hold):
        """Reports each message, and answers it with its own payload, if it has one: the library sends no empty answers."""

        def on_message(endpoint, seq, response):
            payload = response.contents.bytes()
            answer = (endpoint, seq, payload, len(payload))
            if hold:
                self.held.append(answer)
            # Held before it is told, so that it can be released then.
            self.report("received", topic=topic, seq=seq.decode(), node=endpoint.decode(), payload=payload.hex())
            if payload and not hold:
                self.library.bcos_amop_send_response(self.sdk, *answer)

        return self.kept(ON_MESSAGE(on_message))

    def answers(self, request):
        def on_answer(response):
            code = response.contents.error
            payload = response.contents.bytes().hex() if code == 0 else None
            description = response.contents.description.decode() if code else None
            self.report("answered", id=request, code=code, message=description, payload=payload)

        return self.kept(ON_ANSWER(on_answer))


WRITING = threading.Lock()


def main():
    library = load(sys.argv[1])
    applications = {}
    for line in sys.stdin:
        command = json.loads(line)
        number = command["application"]
        application = applications.setdefault(number, Application(number, library))
        try:
            application.obey(command)
        except Exception as failure:
            traceback.print_exc()
            application.report("failed", command=command, reason=str(failure))
    sys.stdout.flush()
    # Not in order: the library ends its threads by itself, at any time.
    os._exit(0)


main()
