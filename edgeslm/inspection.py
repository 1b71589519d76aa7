"""What ``edgeslm inspect`` shows: a bundle's manifest, its report card and the memory it needs."""

from __future__ import annotations

import json
from typing import Any

from edgeslm.bundle import REPORT, Bundle, memory_need
from edgeslm.errors import BundleError

CONTEXTS = (512, 2048, 8192)
"""Token counts for which the memory need is shown, as far as the model's context goes."""


def describe(bundle: Bundle, signature: str | None = None) -> dict[str, Any]:
    """Manifest, report card and memory need as plain data; ``signature`` is what is known of it, in words.

    :raises BundleError: a report card that isn't a JSON object.
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
    if manifest.kind in ("decoder", "encoder"):
        contexts = sorted({min(tokens, manifest.context_length) for tokens in CONTEXTS})
        described["memory_bytes"] = {str(tokens): memory_need(manifest, tokens) for tokens in contexts}
    return described


def render(described: dict[str, Any]) -> str:
    """For a person: one fact a line."""
    manifest = described["manifest"]
    source = manifest["source"]
    rows = [
        ("name", manifest["name"]),
        ("kind", f"{manifest['kind']} ({manifest['architecture']})"),
        ("digest", described["digest"]),
        ("source", " ".join(filter(None, (source["id"], source["revision"]))) or "unknown"),
        ("licence", source["licence"] or "unknown"),
        ("created", manifest["created"]),
        ("size", f"{described['bytes'] / 1e6:.1f} MB in {len(manifest['files'])} files"),
    ]
    if described["signature"]:
        rows.append(("signature", described["signature"]))
    if quantization := manifest.get("quantization"):
        groups = ", ".join(
            f"{g['group']} {g['bits']} bits, group {g['group_size']}" for g in quantization["groups"]
        )
        rows.append(
            ("quantization", f"{quantization['recipe']} ({groups})" if groups else quantization["recipe"])
        )
    if manifest.get("context_length"):
        rows.append(
            ("context", f"{manifest['context_length']} tokens, {manifest['kv_bytes_per_token']} bytes each")
        )
    if prompts := manifest.get("encoder", {}).get("prompts"):
        rows.append(("before texts", ", ".join(f"{name} {words!r}" for name, words in prompts.items())))
    if head := manifest.get("head"):
        rows.append(("labels", ", ".join(head["labels"])))
        rows.append(("learned from", f"{head['rows']} rows on encoder {head['encoder']}"))
    if adapter := manifest.get("adapter"):
        rows.append(("adds to", f"{', '.join(adapter['targets'])}, rank {adapter['rank']}"))
        rows.append(("base", adapter["base"]))
    for tokens, need in described.get("memory_bytes", {}).items():
        rows.append(("memory", f"about {need / 1e6:.0f} MB with {tokens} tokens"))
    rows += [("made for", f"{name} {version}") for name, version in manifest["runtime"].items()]
    lines = [f"{key:<14}{value}" for key, value in rows]
    if described["report"]:
        lines += ["", "report card", *_report_lines(described["report"], "  ")]
    return "\n".join(lines)


def _report_lines(report: Any, indent: str) -> list[str]:
    lines = []
    for key, value in report.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_report_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<24}{value if isinstance(value, str) else json.dumps(value)}")
    return lines
