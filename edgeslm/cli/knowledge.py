"""``edgeslm knowledge``: adds, lists, removes and searches documents of a collection (one SQLite file)."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import textwrap
from dataclasses import asdict
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edgeslm.cli.parts import Act, add_part, whole_number
from edgeslm.cli.screen import ProgressLine, print_error, say
from edgeslm.config.languages import Language
from edgeslm.errors import BundleError, KnowledgeError, plural

if TYPE_CHECKING:
    from edgeslm.cli.embedding import Embedding
    from edgeslm.knowledge.index.collection import Collection
    from edgeslm.knowledge.index.queries import EncoderTag, Found
    from edgeslm.knowledge.service.intake import Totals

SUMMARY = "keep documents in a collection and search them"
EXAMPLE = "edgeslm knowledge add manuals /srv/manuals --encoder bundles/minilm-l6-int8"

K = 5
"""Default number of passages that a search shows."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    parts = command.add_subparsers(title="what to do", metavar="ACTION", required=True)

    def add(name: str, act: Act, about: str, example: str) -> argparse.ArgumentParser:
        sub = add_part(parts, name, act, about, example)
        sub.add_argument("kb", type=Path, metavar="KB", help="the collection's file; .sqlite may be left out")
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    sub = add("add", _add, "add files and folders, or update those that changed", EXAMPLE)
    sub.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="a file, or a folder of files")
    sub.add_argument(
        "--encoder",
        type=Path,
        metavar="BUNDLE",
        help="encoder that embeds passages, for search by meaning",
    )
    sub.add_argument("--re-embed", action="store_true", help="embed everything again if the encoder differs")
    sub.add_argument(
        "--language",
        choices=get_args(Language),
        metavar="CODE",
        help="language of the documents, such as de or es (default: detected for each document)",
    )
    sub.add_argument("--sync", action="store_true", help="also remove documents whose files are gone")
    sub.add_argument(
        "--again",
        action="store_true",
        help="retry files that were given up because of time, memory or a crash",
    )

    add("list", _list, "list the documents of a collection", "edgeslm knowledge list manuals")

    sub = add("remove", _remove, "remove a document", "edgeslm knowledge remove manuals press/4.md")
    sub.add_argument("source", metavar="SOURCE", help="name as in list, or a pattern such as 'press/*'")

    example = "edgeslm knowledge search manuals 'how often is oil changed?' -k 3"
    sub = add("search", _search, "search the passages of a collection", example)
    sub.add_argument("query", metavar="QUERY", help="words or a question")
    sub.add_argument("-k", type=whole_number, default=K, metavar="N", help=f"passages to show (default: {K})")
    sub.add_argument("--encoder", type=Path, metavar="BUNDLE", help="new place of the collection's encoder")
    sub.add_argument("--source", metavar="PATTERN", help="search only documents with such names")
    when = "a day (2026-11-27) or a time (2026-11-27T06:00)"
    sub.add_argument(
        "--since", type=_time, metavar="TIME", help=f"only documents added or changed since {when}"
    )
    sub.add_argument("--until", type=_end, metavar="TIME", help="only documents added or changed until then")
    about = "also show N passages before and after each"
    sub.add_argument("--around", type=whole_number, default=0, metavar="N", help=about)


def run(arguments: argparse.Namespace) -> int:
    return int(arguments.act(arguments))


def _time(text: str) -> float:
    """An argparse type: a local day or time, converted to seconds since 1970."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(f"{text} is not a date or time, such as 2026-11-27T06:00") from None


def _end(text: str) -> float:
    """An argparse type like :func:`_time`, but a day without a time means the end of that day."""
    try:
        day = datetime.combine(date.fromisoformat(text), time.max)
    except ValueError:
        return _time(text)
    return day.timestamp()


def _add(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.adding import AddingProgress
    from edgeslm.knowledge.index.collection import Collection
    from edgeslm.knowledge.readers.sources import find_files
    from edgeslm.knowledge.service.intake import add_files

    with contextlib.ExitStack() as stack:
        # First, so that a bad encoder leaves no empty collection behind.
        embedding = stack.enter_context(_named(arguments.encoder)) if arguments.encoder else None
        collection = stack.enter_context(Collection(arguments.kb, writes=True, language=arguments.language))
        if embedding is not None:
            collection.use_encoder(_tag(embedding), replace=arguments.re_embed)
        elif collection.encoder is not None:
            embedding = stack.enter_context(_remembered(collection.encoder))
        else:
            print_error(f"without --encoder {collection.file} is searched by words alone")
        collection.index_languages()
        files = sum(1 for _ in find_files(arguments.paths))
        adding = AddingProgress(stack.enter_context(ProgressLine()), files)
        embed = None if embedding is None else functools.partial(adding.embed, embedding)
        totals = add_files(
            *(collection, arguments.paths),
            embed=embed,
            sync=arguments.sync,
            again=arguments.again,
            listener=adding,
        )
        if embed is not None and (missing := collection.unembedded):
            adding.begin_missing(missing)
            collection.embed_missing(embed)
    say(json.dumps(totals.figures()) if arguments.json else _told(totals))
    if totals.broken:
        print_error(f"{totals.broken:,} of {plural(files, 'file')} could not be added")
    return int(totals.broken > 0)


def _list(arguments: argparse.Namespace) -> int:
    from edgeslm.knowledge.index.collection import Collection

    with Collection(arguments.kb) as collection:
        entries = collection.documents()
        tag, unembedded = collection.encoder, collection.unembedded
    if arguments.json:
        say(json.dumps([asdict(entry) for entry in entries]))
        return 0
    width = max((len(entry.source) for entry in entries), default=0)
    for entry in entries:
        noun = "passage" if entry.passages == 1 else "passages"
        day = datetime.fromtimestamp(entry.added).strftime("%Y-%m-%d")
        expires = entry.origin.expires
        until = f", until {datetime.fromtimestamp(expires).strftime('%Y-%m-%d %H:%M')}" if expires else ""
        say(f"{entry.source:<{width}}  {entry.passages:6,} {noun:<8}  added {day}{until}  {entry.title}")
    passages = sum(entry.passages for entry in entries)
    how = "searched by words alone" if tag is None else f"embedded by {Path(tag.path).name}"
    lacking = f", {plural(unembedded, 'passage')} not yet" if tag is not None and unembedded else ""
    counts = f"{plural(len(entries), 'document')}, {plural(passages, 'passage')}"
    say(f"{collection.file}: {counts}, {how}{lacking}")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from edgeslm.knowledge.index.collection import Collection

    with Collection(arguments.kb) as reader:  # without writes: a misspelt name must not create a collection
        sources = reader.sources(arguments.source)
    if not sources:
        raise KnowledgeError(f"{reader.file} has no document {arguments.source}; see edgeslm knowledge list")
    with Collection(arguments.kb, writes=True) as collection:
        removed = [source for source in sources if collection.remove(source)]
    lines = "\n".join(f"removed {source}" for source in removed)
    say(json.dumps({"removed": removed}) if arguments.json else lines)
    return 0


def _search(arguments: argparse.Namespace) -> int:
    from edgeslm.knowledge.index.collection import Collection
    from edgeslm.knowledge.index.queries import Filter
    from edgeslm.knowledge.index.search import search, widened

    with contextlib.ExitStack() as stack:
        collection = stack.enter_context(Collection(arguments.kb))
        embedding = _for_questions(collection, arguments.encoder)
        if embedding is not None:
            stack.enter_context(embedding)
        found = search(
            *(collection, arguments.query),
            k=arguments.k,
            embed=embedding,
            only=Filter(arguments.source, arguments.since, arguments.until),
        )
        if arguments.around:
            found = [widened(collection, one, arguments.around) for one in found]
    if arguments.json:
        keys = ("source", "heading", "text", "start", "end")
        passages = [
            {**{key: getattr(one, key) for key in keys}, "score": round(one.score, 4)} for one in found
        ]
        say(json.dumps(passages, ensure_ascii=False))
    else:
        say("\n\n".join(_page(number, one) for number, one in enumerate(found, 1)) or "nothing found")
    return 0


# --- encoders ---------------------------------------------------------------------------------------


def _named(path: Path) -> Embedding:
    from edgeslm.cli.embedding import Embedding

    return Embedding(path)


def _tag(embedding: Embedding) -> EncoderTag:
    from edgeslm.knowledge.index.queries import EncoderTag

    return EncoderTag(embedding.bundle.digest, str(embedding.bundle.path))


def _remembered(tag: EncoderTag) -> Embedding:
    """Loads the collection's encoder from the path that the collection has recorded.

    :raises KnowledgeError: there is no encoder at this path, or a different encoder.
    """
    try:
        embedding = _named(Path(tag.path))
    except BundleError as error:
        raise KnowledgeError(f"the encoder isn't where it was ({error}); name it with --encoder") from None
    if embedding.bundle.digest != tag.digest:
        raise KnowledgeError(f"{tag.path} is another encoder by now; name the collection's with --encoder")
    return embedding


def _for_questions(collection: Collection, path: Path | None) -> Embedding | None:
    """The collection's encoder; None if only keyword search is possible.

    If the recorded encoder is missing, a message says so.
    """
    tag = collection.encoder
    if tag is None:
        return None
    if path is None:
        try:
            return _remembered(tag)
        except KnowledgeError as error:
            print_error(f"searched by words alone: {error}")
            return None
    embedding = _named(path)
    if embedding.bundle.digest != tag.digest:
        raise KnowledgeError(f"{collection.file} was embedded with another encoder, {tag.path}")
    return embedding


# --- what is shown ----------------------------------------------------------------------------------


def _told(totals: Totals) -> str:
    names = {name: name for name in ("added", "changed", "unchanged", "removed")} | {"broken": "not added"}
    counts = ", ".join(
        f"{count:,} {told}" for name, told in names.items() if (count := getattr(totals, name))
    )
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(totals.skipped.items()))
    return f"{counts or 'nothing to add'}; {plural(totals.passages, 'new passage')}" + (
        f"; skipped {kinds}" if kinds else ""
    )


def _page(number: int, found: Found) -> str:
    """A passage as text for the terminal; the line breaks of the passage are kept."""
    width = min(110, shutil.get_terminal_size().columns)
    where = f"{found.source}: {found.heading}" if found.heading else found.source
    head = f"{number}. {where} ({found.score:.2f}, characters {found.start} to {found.end})"
    lines = [part for line in found.text.splitlines() for part in textwrap.wrap(line, width - 4) or [""]]
    return "\n".join([head, *(f"    {line}".rstrip() for line in lines)])
