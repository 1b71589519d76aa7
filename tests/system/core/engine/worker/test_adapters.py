"""Adapters on the real small model: outputs are compared with one another only."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from edgeslm.engine.calls import Generate, Output, Prompt, Score, Text, Turn
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.errors import BundleError, InternalError
from tests.support.adapters import make_adapter, make_base

LABELS = ("normal", "warning", "critical")


def prompt(message: str) -> Prompt:
    return Prompt(
        (
            Turn("system", ("How urgent is this message from a machine operator? Answer with one label.",)),
            Turn("user", (Text(message),)),
        )
    )


def score(decoder: Decoder, message: str, adapter: Path | None) -> tuple[float, ...]:
    name = None if adapter is None else str(adapter)
    return decoder.score(Score(prompt(message), LABELS, adapter=name)).probabilities


def says(decoder: Decoder, message: str, adapter: Path | None) -> Output:
    return decoder.generate(Generate(prompt(message), 6, adapter=None if adapter is None else str(adapter)))


@pytest.fixture(scope="module")
def base(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(starter / "smollm2-135m-int4", tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(folder / f"a{seed}", base, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def decoder(base: Path, adapters: list[Path]) -> Iterator[Decoder]:
    decoder = Decoder(base, 2, dict.fromkeys(adapters))
    yield decoder
    decoder.close()


def after_another(decoder: Decoder, adapter: Path | None) -> tuple[float, ...]:
    """Always behind the same message, so that the same part of the prompt comes from the cache."""
    score(decoder, "All is well here", adapter)
    return score(decoder, "The belt is burning", adapter)


def test_switching_gives_what_a_fresh_load_gives(decoder: Decoder, base: Path, adapters: list[Path]) -> None:
    """And the caches of the same instruction aren't mixed up between adapters."""
    choices = [None, *adapters]
    fresh = {}
    for adapter in choices:
        alone = Decoder(base, 2, dict.fromkeys(adapters))
        fresh[adapter] = after_another(alone, adapter)
        alone.close()
    assert len(set(fresh.values())) == 3, "an adapter changes nothing"
    decoder.forget()
    for adapter in (*choices, *reversed(choices), adapters[0], None):
        assert after_another(decoder, adapter) == fresh[adapter]


def test_without_an_adapter_the_answers_are_those_of_the_plain_graph(decoder: Decoder, base: Path) -> None:
    plain = Decoder(base, 2)
    decoder.forget()
    for message in ("The belt is burning", "Door open"):
        assert score(decoder, message, None) == score(plain, message, None)
        assert says(decoder, message, None).text == says(plain, message, None).text
    plain.close()


def test_an_adapter_generates_again_what_it_generated(decoder: Decoder, adapters: list[Path]) -> None:
    decoder.forget()
    first = [says(decoder, "Door open", adapter).text for adapter in adapters]
    decoder.forget()
    assert [says(decoder, "Door open", adapter).text for adapter in adapters] == first


def test_an_adapter_that_was_not_listed_is_not_loaded(
    decoder: Decoder, base: Path, adapters: list[Path]
) -> None:
    with pytest.raises(InternalError, match="not loaded"):
        score(decoder, "x", adapters[0] / "other")
    plain = Decoder(base, 2)
    with pytest.raises(InternalError, match="not loaded"):
        score(plain, "x", adapters[0])
    plain.close()


def test_a_base_of_an_older_version_is_refused(starter: Path, adapters: list[Path], tmp_path: Path) -> None:
    from edgeslm_export.bundle.writer import write_manifest

    from edgeslm.bundle.manifest import load_bundle

    folder = make_base(starter / "smollm2-135m-int4", tmp_path / "old")
    fields = load_bundle(folder).manifest.model_dump(mode="json", exclude_none=True)
    del fields["files"], fields["graphs"]["adapters"]
    write_manifest(folder, fields)
    with pytest.raises(BundleError, match="export it again"):
        Decoder(folder, 2, dict.fromkeys(adapters))


def test_ten_adapters_take_one_base(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    """Anonymous memory: the files of adapters are mapped. A second base would be above 100 MB."""
    ten = [make_adapter(tmp_path / f"a{seed}", base, seed) for seed in range(10)]
    one_mb, ten_mb = _anonymous_mb(base, ten[:1]), _anonymous_mb(base, ten)
    bytes_mb = sum(file.stat().st_size for path in ten for file in path.iterdir()) / 1e6
    assert ten_mb < one_mb + bytes_mb / 2 + 10, f"{one_mb:.0f} MB with one adapter, {ten_mb:.0f} with ten"


def _anonymous_mb(base: Path, adapters: list[Path]) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_use_all, args=(base, adapters, theirs))
    process.start()
    result: float = ours.recv()
    process.join()
    return result


def _use_all(base: Path, adapters: list[Path], pipe: Connection) -> None:
    decoder = Decoder(base, 2, dict.fromkeys(adapters))
    for adapter in adapters:
        decoder.forget()
        score(decoder, "The belt is burning", adapter)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    pipe.send(kilobytes / 1000)
    decoder.close()
