"""Fuzz targets: for each format from outside, a function of bytes, and seed inputs.

A target handles the refusals of the product itself, so every exception from it is a defect. It imports the
tested code when it is made, so that the fuzzer can instrument it.
"""

from __future__ import annotations

import atexit
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.integration.fuzz.work import Run
from tests.support.paths import ROOT

SEPARATOR = b"\xfe\xfe"
"""Separates the parts of an input; it can't occur in UTF-8."""


@dataclass(frozen=True, slots=True)
class Target:
    """``make`` returns the function; ``largest`` is the maximum length in bytes for measuring work."""

    make: Callable[[], Run]
    largest: int = 16_384


def seeds_of(name: str) -> list[bytes]:
    """Seed inputs from the folder ``seeds``."""
    folder = Path(__file__).parent / "seeds" / name.replace(" ", "-")
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def parts(data: bytes, count: int) -> list[bytes]:
    return [*data.split(SEPARATOR, count - 1), *[b""] * count][:count]


def text(data: bytes) -> str:
    return data.decode(errors="replace")


# --- messages --------------------------------------------------------------------------------------------


def make_packets() -> Run:
    from edgeslm.mqtt.publish_filter import PublishFilter

    def run(data: bytes) -> None:
        whole = PublishFilter().feed(data)
        if len(data) > 700 or not has_lengths(data):
            return
        pieces = PublishFilter()
        if whole != b"".join(pieces.feed(data[at : at + 7]) for at in range(0, len(data), 7)):
            raise AssertionError("packets come out otherwise when they come in pieces")

    return run


def has_lengths(data: bytes) -> bool:
    """Whether each packet has a valid length."""
    while len(data) > 1:
        size = 0
        for place in range(4):
            if place + 1 == len(data):
                return True
            size |= (data[place + 1] & 127) << 7 * place
            if not data[place + 1] & 128:
                break
        else:
            return False
        data = data[place + 2 + size :]
    return True


def make_protocol() -> Run:
    sys.path.append(str(ROOT))
    from benchmarks.lib.payloads import Case
    from benchmarks.robustness.fuzz import try_case

    def run(data: bytes) -> None:
        payload, topic, correlation = parts(data, 3)
        response_topic = topic.decode(errors="replace") if SEPARATOR in data else None
        try_case(Case("atheris", payload, response_topic, correlation or None))

    return run


def make_json() -> Run:
    from edgeslm.errors import RequestError
    from edgeslm.protocol.strict_json import decode_text, encode_json, parse_json

    def run(data: bytes) -> None:
        try:
            value = parse_json(decode_text(data))
        except RequestError:
            return
        if parse_json(decode_text(encode_json({"value": value}))) != {"value": value}:
            raise AssertionError("the value reads otherwise than it was written")

    return run


def make_options() -> Run:
    from edgeslm.errors import RequestError
    from edgeslm.protocol.commands import parse_command
    from edgeslm.protocol.feedback import parse_feedback
    from edgeslm.protocol.request_options import read_options
    from edgeslm.protocol.strict_json import decode_text, parse_json

    def run(data: bytes) -> None:
        for read in (
            lambda: read_options(parse_json(decode_text(data))),
            lambda: parse_feedback(data),
            lambda: parse_command("reload", data),
        ):
            try:
                read()
            except RequestError:
                continue

    return run


def make_schemas() -> Run:
    from edgeslm.errors import RequestError
    from edgeslm.tasks.extract import bounded, check_schema, phrases

    def run(data: bytes) -> None:
        schema_text, message = parts(data, 2)
        try:
            schema = json.loads(schema_text)
        except (ValueError, RecursionError):
            return
        if not isinstance(schema, dict):
            return
        try:
            check_schema(schema)
            bounded(schema, 200, 16)
            bounded(schema, 200, 16, phrases(text(message)[:2000]))
        except RequestError:
            return

    return run


# --- configuration ---------------------------------------------------------------------------------------


def make_configuration() -> Run:
    from edgeslm.config.loader import parse_config
    from edgeslm.errors import ConfigError

    def run(data: bytes) -> None:
        try:
            parse_config(text(data))
        except ConfigError as error:
            if not str(error).strip():
                raise AssertionError("a refusal without a sentence") from error

    return run


def make_templates() -> Run:
    from edgeslm.config.templates import make_condition, make_input, make_topic, read_scope, topic_pattern
    from edgeslm.errors import TemplateError

    def run(data: bytes) -> None:
        source, payload = parts(data, 2)
        scope = read_scope("plant/hall/press", text(payload))
        for make in (make_input, make_topic, make_condition):
            try:
                make(text(source))(scope)
            except TemplateError:
                continue
        try:
            topic_pattern(text(source), "plant/+/press")
        except TemplateError:
            return

    return run


# --- bundles ---------------------------------------------------------------------------------------------


def make_manifests() -> Run:
    from edgeslm.bundle.manifest import parse_manifest
    from edgeslm.errors import BundleError

    def run(data: bytes) -> None:
        try:
            parse_manifest(data, "manifest.json")
        except BundleError:
            return

    return run


def make_signatures() -> Run:
    from edgeslm.bundle.signature import parse_statement
    from edgeslm.errors import BundleError

    def run(data: bytes) -> None:
        try:
            parse_statement(data, "model.sig")
        except BundleError:
            return

    return run


def make_genai_configs() -> Run:
    from edgeslm.bundle.genai_config import check_genai_config
    from edgeslm.errors import BundleError

    def run(data: bytes) -> None:
        try:
            check_genai_config(data, ("model.onnx",), "genai_config.json")
        except BundleError:
            return

    return run


def make_archives() -> Run:
    import threading

    from edgeslm.errors import BundleError
    from edgeslm.update.allowance import Allowance
    from edgeslm.update.store import Store
    from edgeslm.update.unpacking import unpack

    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=_memory()) as folder:
            store = Store(Path(folder), "hall")
            store.folder.mkdir(parents=True)
            allowance = Allowance(store.folder, 1_000_000, threading.Event(), lambda done, of: None)
            try:
                unpack(io.BytesIO(data), "a.tar", store, allowance)
            except (BundleError, OSError):
                return

    return run


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# --- documents -------------------------------------------------------------------------------------------


def make_document(suffix: str, wrap: Callable[[bytes], bytes] = bytes) -> Callable[[], Run]:
    def make() -> Run:
        from edgeslm.errors import KnowledgeError
        from edgeslm.knowledge.documents.passages import split
        from edgeslm.knowledge.readers.reader import read_document

        folder = Path(tempfile.mkdtemp(dir=_memory()))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = folder / f"document{suffix}"

        def run(data: bytes) -> None:
            file.write_bytes(wrap(data))
            try:
                document = read_document(file, file.name)
            except KnowledgeError:
                return
            split(document)

        return run

    return make


def page_of(data: bytes) -> bytes:
    """A PDF with these lines on its page, to fuzz the reader's layout analysis."""
    from tests.support.knowledge.pdfs import make_pdf

    lines = [line.replace(b"\0", b" ").decode("latin-1") for line in data.split(b"\n")]
    return make_pdf([lines])


def office(name: str) -> Callable[[bytes], bytes]:
    """Puts the input into an Office file as its main part, sheet or slide."""

    def wrap(data: bytes) -> bytes:
        wrapped: bytes = getattr(import_module("tests.support.knowledge.office_files"), name)(data)
        return wrapped

    return wrap


# --- from children ---------------------------------------------------------------------------------------


def make_frames(module: str, direction: str) -> Callable[[], Run]:
    def make() -> Run:
        from edgeslm.ipc.codec import FrameError

        frames = getattr(import_module(module), direction)

        def run(data: bytes) -> None:
            try:
                message = frames.decode(data)
            except FrameError:
                return
            if frames.decode(frames.encode(message)) != message:
                raise AssertionError("the message reads otherwise than it was written")

        return run

    return make


# --- from clients of the HTTP API ------------------------------------------------------------------------


def make_bodies() -> Run:
    from edgeslm.api import ollama, openai, rerank, responses
    from edgeslm.api.node import Offered, Question
    from edgeslm.config.task_kinds import POSSIBLE
    from edgeslm.errors import InvalidRequest
    from edgeslm.protocol.codec import Topics, encode_request, parse_request
    from edgeslm.protocol.delivery import Delivery
    from edgeslm.protocol.strict_json import decode_text, parse_json
    from edgeslm.web.server import Refusal

    def questions(body: dict[str, object]) -> Iterator[Question]:
        for kind, options in POSSIBLE.items():
            offered = Offered(kind, kind, frozenset(options), {})
            with suppress(Refusal):
                yield openai.read_chat(body, offered).question
            with suppress(Refusal):
                yield responses.read(body, offered).question
            with suppress(Refusal):
                yield from openai.read_embeddings(body, offered).questions
            with suppress(Refusal):
                yield ollama.read_chat(body, offered).question
            with suppress(Refusal):
                yield ollama.read_generate({"prompt": "x", **body}, offered).question
            with suppress(Refusal):
                yield from ollama.read_embed(body, offered, is_old=False).questions
        with suppress(Refusal):
            yield rerank.read(body, Offered("model:reader", "rerank", frozenset(), {})).question

    def run(data: bytes) -> None:
        try:
            body = parse_json(decode_text(data))
        except InvalidRequest:
            return
        if isinstance(body, dict):
            for question in questions(body):
                payload = encode_request(question.input, options=question.options)
                delivery = Delivery.local(payload)
                topics, task = Topics("hall"), question.task
                parse_request(delivery, task=task, topics=topics, allowed_replies=(), packet_limit=1 << 20)

    return run


def make_tokens() -> Run:
    from edgeslm.api.tokens import parse_tokens
    from edgeslm.errors import ConfigError

    def run(data: bytes) -> None:
        with suppress(ConfigError):
            parse_tokens(text(data), "file")

    return run


TARGETS: dict[str, Target] = {
    "packets": Target(make_packets),
    "protocol": Target(make_protocol),
    "json": Target(make_json),
    "options": Target(make_options),
    "schemas": Target(make_schemas),
    "configuration": Target(make_configuration),
    "templates": Target(make_templates, 1_048_576),
    "manifests": Target(make_manifests),
    "signatures": Target(make_signatures),
    "archives": Target(make_archives, 65_536),
    "markdown": Target(make_document(".md")),
    "plain text": Target(make_document(".txt")),
    "restructured text": Target(make_document(".rst")),
    "web page": Target(make_document(".html")),
    "csv": Target(make_document(".csv")),
    "tsv": Target(make_document(".tsv")),
    "json lines": Target(make_document(".jsonl")),
    "json document": Target(make_document(".json")),
    "gzip": Target(make_document(".txt.gz")),
    "pdf": Target(make_document(".pdf")),
    "pdf text": Target(make_document(".pdf", page_of)),
    "office file": Target(make_document(".docx")),
    "docx": Target(make_document(".docx", office("docx_of"))),
    "xlsx": Target(make_document(".xlsx", office("xlsx_of"))),
    "pptx": Target(make_document(".pptx", office("pptx_of"))),
    "settings of models": Target(make_genai_configs),
    "frames of the engine": Target(make_frames("edgeslm.engine.frames", "FROM_ENGINE")),
    "frames of the collections": Target(make_frames("edgeslm.knowledge.service.frames", "FROM_COLLECTIONS")),
    "frames of the console": Target(make_frames("edgeslm.console.wire", "FROM_CONSOLE")),
    "bodies of the API": Target(make_bodies),
    "tokens of the API": Target(make_tokens),
    "frames of the API": Target(make_frames("edgeslm.api.wire", "FROM_API")),
}
