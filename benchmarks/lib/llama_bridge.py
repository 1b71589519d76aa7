"""Bridge between a broker and llama.cpp's server, as thin as a user would write it.

    python benchmarks/lib/llama_bridge.py JOB.json

It takes requests and publishes results as a node of edgeslm does (``docs/reference/mqtt.md``), so
``compare.py`` asks both sides with the same client; a thread for each slot, each with a connection that stays
open. JOB.json::

    {"url": "mqtt://127.0.0.1:1883", "node": "baseline", "port": 8080, "slots": 4,
     "tasks": {"triage": {"prompt": "...<input>...", "body": {"n_predict": 1, ...}, "labels": ["a", "b"]}}}

It has no journal, no queue that survives and no limits: whatever those cost, only the other side pays it.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.lib.llama_server import Completions
from edgeslm.messages import Chunk
from edgeslm.mqtt.paho_client import send_small_packets_at_once
from edgeslm.protocol.codec import encode_chunk, encode_state
from edgeslm.protocol.strict_json import encode_json
from edgeslm.protocol.topics import Topics

INPUT: Final = "<\ue000input>"
CONTEXT: Final = "<\ue000context>"
"""Where the sender's texts go in a prompt."""


class Bridge:
    """Requests of one node, each answered by the next slot that is free."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._topics = Topics(job["node"])
        self._tasks: Mapping[str, Any] = job["tasks"]
        self._waiting: queue.SimpleQueue[mqtt.MQTTMessage] = queue.SimpleQueue()
        self._seen: set[bytes] = set()
        self._client = client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.max_inflight_messages_set(1000)
        client.on_socket_open = send_small_packets_at_once
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        host, _, port = job["url"].removeprefix("mqtt://").partition(":")
        client.connect(host, int(port))
        client.subscribe(self._topics.requests_filter, 1)
        for _ in range(job["slots"]):
            threading.Thread(target=self._work, args=(Completions(job["port"]),), daemon=True).start()

    def run(self) -> None:
        """Until the process is told to end."""
        signal.signal(signal.SIGTERM, lambda *_: self._client.disconnect())
        self._client.loop_forever()

    def _on_subscribe(self, *_: Any) -> None:
        self._client.publish(self._topics.state, encode_state("online", "bridge"), qos=1, retain=True)

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        correlation: bytes = message.properties.CorrelationData  # type: ignore[union-attr]
        if correlation not in self._seen:  # a client that waits for long asks again
            self._seen.add(correlation)
            self._waiting.put(message)

    def _work(self, server: Completions) -> None:
        while True:
            message = self._waiting.get()
            try:
                self._answer(server, message)
            except Exception as error:
                print(f"{message.topic}: {error}", file=sys.stderr, flush=True)
                failed = {"status": "error", "error": {"code": "internal", "message": str(error)}}
                self._publish(message, "", encode_json({"id": "", "task": "", **failed}), qos=1)

    def _answer(self, server: Completions, message: mqtt.MQTTMessage) -> None:
        name = message.topic.rpartition("/")[2]
        task, request = self._tasks[name], json.loads(message.payload)
        options = request.get("options", {})
        prompt = task["prompt"].replace(CONTEXT, options.get("context", "")).replace(INPUT, request["input"])
        body = {"prompt": prompt, "stream": bool(options.get("stream")), **task["body"]}
        pieces: list[str] = []
        for answer in server.complete(body):
            pieces.append(answer["content"])
            if body["stream"] and answer["content"]:
                chunk = Chunk(id="", seq=len(pieces) - 1, text=answer["content"])
                self._publish(message, "/stream", encode_chunk(chunk), qos=0)
        usage = {"prompt_tokens": answer["tokens_evaluated"], "completion_tokens": answer["tokens_predicted"]}
        fields = {
            "id": request.get("id", ""),
            "task": name,
            "status": "ok",
            "result": result_of(task, "".join(pieces)),
            "usage": usage,
        }
        self._publish(message, "", encode_json(fields), qos=1)

    def _publish(self, message: mqtt.MQTTMessage, suffix: str, payload: bytes, qos: int) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.CorrelationData = message.properties.CorrelationData  # type: ignore[union-attr]
        topic = message.properties.ResponseTopic + suffix  # type: ignore[union-attr]
        self._client.publish(topic, payload, qos=qos, properties=properties)


def result_of(task: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A label is known by its first tokens; fields are left as text when their JSON was cut off."""
    labels: Sequence[str] = task.get("labels") or ()
    if labels:
        return {"label": next((label for label in labels if label.startswith(text)), text)}
    try:
        return {"fields": json.loads(text)} if task.get("fields") else {"text": text}
    except ValueError:
        return {"text": text}


if __name__ == "__main__":
    Bridge(json.loads(Path(sys.argv[1]).read_text())).run()
