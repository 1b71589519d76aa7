"""Slots of models with a recurrent state: where it is kept, and what is read again."""

from __future__ import annotations

import pytest

from edgeslm.engine.worker.kv_cache import KvSlot, SlotKey, SlotPool
from edgeslm.engine.worker.prompt import Encoded
from edgeslm.engine.worker.reading import PromptReader, has_state
from edgeslm.errors import Cancelled

IDS = list(range(100, 140))


class Generator:
    """Has the tokens it was given; goes back to 0 or to where its state was kept, as the runtime does."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.kept: list[int] | None = None
        self.passes = 0

    def append_tokens(self, tokens: list[int]) -> None:
        self.tokens += map(int, tokens)
        self.passes += 1

    def snapshot_state(self) -> None:
        self.kept = list(self.tokens)

    def rewind_to(self, length: int) -> None:
        assert length == 0 or self.kept == self.tokens[:length]
        self.kept = self.kept if length else None
        del self.tokens[length:]


def read(fixed: int, ids: list[int] = IDS) -> tuple[PromptReader, KvSlot, Generator]:
    reader, generator = PromptReader(8, keeps_state=True), Generator()
    slot = KvSlot(generator, SlotKey(), 256)
    reader.read(slot, Encoded(ids, None, fixed), 0, lambda: False)
    return reader, slot, generator


@pytest.mark.parametrize(("fixed", "kept"), [(20, 20), (40, 40), (39, 40), (3, 40)])
def test_the_state_is_kept_after_the_instruction_or_the_whole_prompt(fixed: int, kept: int) -> None:
    _, slot, generator = read(fixed)
    assert slot.kept == kept
    assert generator.kept == IDS[:kept]
    assert generator.tokens == slot.tokens == IDS


def test_goes_back_to_a_later_or_an_earlier_token_by_reading_again() -> None:
    reader, slot, generator = read(20)
    for length in (30, 24, 10):
        generator.append_tokens([1, 2])
        slot.tokens += [1, 2]
        reader.rewind(slot, min(length, len(slot.tokens)), lambda: False)
        assert generator.tokens == slot.tokens == IDS[:length]
    generator.append_tokens([1, 2])
    slot.tokens += [1, 2]
    reader.rewind(slot, slot.kept, lambda: False)
    assert generator.tokens == slot.tokens == IDS[:10]
    with pytest.raises(Cancelled):
        reader.rewind(slot, 9, lambda: True)


def test_another_prompt_takes_the_slot_if_all_of_the_kept_part_is_its_beginning() -> None:
    reader, slot, generator = read(20)
    pool = SlotPool(1, 4096, state_bytes=8)
    pool.put(slot)
    assert pool.take([*IDS[:19], 1, 2, 3], 100, SlotKey()) == (0, None)
    assert pool.take([*IDS[:20], 1], 100, SlotKey()) == (0, None)
    other = [*IDS[:30], 1, 2, 3]
    assert pool.take(other, 100, SlotKey()) == (20, slot)
    reader.read(slot, Encoded(other, None, 20), 20, lambda: False)
    assert generator.tokens == slot.tokens == other
    assert slot.kept == 20


def test_states_count_towards_the_budget_of_idle_slots() -> None:
    pool = SlotPool(1, 4096, state_bytes=100, budget_bytes=1200)
    for _ in range(3):
        pool.make_room(256)
        pool.put(KvSlot(Generator(), SlotKey(), 256))
    assert len(pool) == 2


def test_a_state_is_found_in_the_settings() -> None:
    assert has_state({"decoder": {"inputs": {"past_conv_names": "past.%d.conv"}}})
    assert not has_state({"decoder": {"inputs": {"past_key_names": "past.%d.key"}}})
    assert not has_state({})
