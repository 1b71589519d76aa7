"""Bundle inspection (``edgeslm inspect``): manifest, report card and memory need."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from edgeslm.bundle.manifest import REPORT, Bundle, memory_need
from edgeslm.errors import BundleError, plural

CONTEXTS = (512, 2048, 8192)
"""Context sizes, in tokens, for which the memory need is shown; sizes above the model's context length are
left out."""
_FLOAT_BITS: Final = 32


def describe(bundle: Bundle, signature: str | None = None) -> dict[str, Any]:
    """Manifest, report card and memory need of a bundle as plain data; ``signature`` is a description of the
    signature.

    :raises BundleError: the report card isn't a JSON object.
    """
    manifest = bundle.manifest
    file = bundle.path / REPORT
    report = None
    if file.exists():
        try:
            report = json.loads(file.read_text("utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            raise BundleError(f"{file}: not JSON ({error})") from None
        if not isinstance(report, dict):
            raise BundleError(f"{file}: not a JSON object")
    described: dict[str, Any] = {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "bytes": bundle.weight_bytes,
        "manifest": manifest.model_dump(mode="json", exclude_none=True),
        "signature": signature,
        "report": report,
    }
    if manifest.model_kind is not None:
        contexts = sorted({min(tokens, manifest.context_length) for tokens in CONTEXTS})
        described["memory_bytes"] = {str(tokens): memory_need(manifest, tokens) for tokens in contexts}
    return described


def render(described: dict[str, Any]) -> str:
    """Formats the description, one fact per line."""
    manifest = described["manifest"]
    source = manifest["source"]
    rows = [
        ("name", manifest["name"]),
        ("kind", f"{manifest['kind']} ({manifest['architecture']})"),
        ("digest", described["digest"]),
        ("source", " ".join(filter(None, (source["id"], source["revision"]))) or "unknown"),
        ("licence", source["licence"] or "unknown"),
        ("created", manifest["created"]),
        ("size", f"{described['bytes'] / 1e6:.1f} MB in {plural(len(manifest['files']), 'file')}"),
    ]
    if described["signature"]:
        rows.append(("signature", described["signature"]))
    if quantization := manifest.get("quantization"):
        groups = _groups(quantization["groups"])
        rows.append(
            ("quantization", f"{quantization['recipe']} ({groups})" if groups else quantization["recipe"])
        )
        if written := quantization.get("written"):
            rows.append(("written by", _groups(written)))
    if manifest.get("context_length"):
        cache = manifest["kv_bytes_per_token"]
        rows.append(
            ("context", f"{manifest['context_length']} tokens" + (f", {cache} bytes each" if cache else ""))
        )
    if manifest["kind"] == "decoder":
        in_one_pass = "score" in manifest["graphs"]
        rows.append(
            ("labels alike", "in one pass, once it is prepared" if in_one_pass else "branch by branch")
        )
    if prompts := manifest.get("encoder", {}).get("prompts"):
        rows.append(("before texts", ", ".join(f"{name} {words!r}" for name, words in prompts.items())))
    if learned := manifest.get("learned"):
        rows += _learned_rows(learned)
    if head := manifest.get("head"):
        rows.append(("encoder", head.get("encoder") or "its own"))
        if head.get("reads") == "pairs":
            rows.append(("reads", "a question and a text: does the one answer the other?"))
    if adapter := manifest.get("adapter"):
        rows.append(("adds to", f"{', '.join(adapter['targets'])}, rank {adapter['rank']}"))
        rows.append(("base", adapter["base"]))
    for tokens, need in described.get("memory_bytes", {}).items():
        rows.append(("memory", f"about {need / 1e6:.0f} MB with {tokens} tokens"))
    rows += [("made for", f"{name} {version}") for name, version in manifest["runtime"].items()]
    lines = [f"{key:<14}{value}" for key, value in rows]
    if described["report"]:
        lines += ["", "report card", *_card_lines(described["report"])]
    return "\n".join(lines)


def _groups(groups: list[dict[str, Any]]) -> str:
    return ", ".join(f"{group['group']} {_format_of(group)}" for group in groups)


def _format_of(group: dict[str, Any]) -> str:
    if group["group_size"]:
        return f"{group['bits']} bits, group {group['group_size']}"
    return f"{group['bits']} bits" + (", by row" if group["bits"] < _FLOAT_BITS else "")


def _learned_rows(learned: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of name and value that describe the task that a bundle was trained for."""
    answers = ", ".join(learned.get("labels") or learned.get("output_schema", {}).get("properties", ()))
    kind = learned["kind"]
    return [
        ("task", f"{learned['task']} ({kind})"),
        ("labels" if kind == "classify" else "fields", answers),
        ("learned from", plural(learned["rows"], "row")),
    ]


def card_rows(card: dict[str, Any]) -> list[tuple[str, str]]:
    """A report card as pairs of name and value; known keys are formatted as text, others as JSON."""
    rows: list[tuple[str, str]] = []
    said, rest = _known(card)
    for name, sentences in said:
        rows += [("" if number else name, line) for number, line in enumerate(sentences)]
    flat = list(rest.items())
    while flat:
        key, value = flat.pop(0)
        if isinstance(value, dict):
            flat[:0] = [(f"{key}, {inner}", one) for inner, one in value.items()]
        else:
            rows.append((str(key).replace("_", " "), value if isinstance(value, str) else json.dumps(value)))
    return rows


def _card_lines(card: dict[str, Any]) -> list[str]:
    said, rest = _known(card)
    lines = [
        f"  {'' if number else name:<24}{line}"
        for name, sentences in said
        for number, line in enumerate(sentences)
    ]
    return lines + _report_lines(rest, "  ")


def _known(card: dict[str, Any]) -> tuple[list[tuple[str, list[str]]], dict[str, Any]]:
    """Splits a report card; returns the known keys as pairs of a name and sentences, and a dict of the
    remaining keys."""
    known: list[tuple[str, list[str]]] = []
    rest = dict(card)
    for name, keys, sentences in _CARD:
        try:
            said = sentences(card) if keys[0] in card else []
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # of another version: shown as JSON
        for key in keys if said else ():
            rest.pop(key, None)
        if said:
            known.append((name, said))
    return known, rest


def _fidelity(card: dict[str, Any]) -> list[str]:
    of = card["fidelity"]
    return [
        f"on {of['tokens']:,} tokens of {of['text']}",
        f"divergence {of['kl_mean']:.4f} nats a token, over {of['kl_p999']:.2f} in the worst 0.1 %",
        f"same likeliest token {of['same_top1']:.1%}",
        f"perplexity {of['perplexity']:.2f}, {of['perplexity_ratio']:.4f} ± {of['perplexity_ratio_se']:.4f} "
        "times the float model's",
    ]


def _formats(card: dict[str, Any]) -> list[str]:
    return [f"{number:,} with {form}" for form, number in card["formats"].items()]


def _source_types(card: dict[str, Any]) -> list[str]:
    lines = [", ".join(f"{number:,} of {kind}" for kind, number in card["source_tensors"].items())]
    if card.get("source_was_quantized"):
        kept = card.get("taken_over_without_loss", 0)
        lines.append(f"quantized already; {kept:,} matrices were taken over without loss")
    return lines


def _accuracy(card: dict[str, Any]) -> list[str]:
    low, high = card["interval"]
    return [f"{card['accuracy']:.3f}, 95 % interval {low:.3f} to {high:.3f}"]


_CARD: tuple[tuple[str, tuple[str, ...], Callable[[dict[str, Any]], list[str]]], ...] = (
    ("against the float model", ("fidelity",), _fidelity),
    ("matrices", ("formats",), _formats),
    ("quantized by", ("method",), lambda card: [str(card["method"])] if "formats" in card else []),
    (
        "bits placed by",
        ("placing",),
        lambda card: [f"{card['placing']['measure']}; bundles built: {card['placing']['builds']}"],
    ),
    ("calibrated on", ("calibration",), lambda card: [str(card["calibration"])]),
    (
        "tensors of the source",
        ("source_tensors", "source_was_quantized", "taken_over_without_loss"),
        _source_types,
    ),
    ("accuracy", ("accuracy", "interval"), _accuracy),
)
"""Known parts of a report card in display order, each with its name, its keys, and a function that formats
them as sentences."""


def _report_lines(report: Any, indent: str) -> list[str]:
    lines = []
    for key, value in report.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_report_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<24}{value if isinstance(value, str) else json.dumps(value)}")
    return lines
