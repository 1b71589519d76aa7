"""Learned task, for which a head or adapter was trained: the task's labels or fields, and the calibration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeslm.bundle.calibration import Calibration


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DriftReference(Section):
    """Reference for drift detection, computed on the test rows. ``distances`` (to the training rows) and
    ``confidences`` are equally spaced quantiles from minimum to maximum; ``labels`` are the shares of the
    predicted labels."""

    distances: tuple[float, ...] = ()
    confidences: tuple[float, ...]
    labels: tuple[float, ...]


class LearnedField(Section):
    """A field that a head extracts. The head chooses among options in this order: no value, if ``optional``;
    a span of the message, if ``longest`` (the span's maximum length in characters) is set; the number in a
    span with the other sign, if ``negated``, as -5 for "down by 5"; and each of ``values``."""

    name: str = Field(min_length=1)
    optional: bool
    longest: int = Field(default=0, ge=0)
    negated: bool = False
    values: tuple[str | int | float | bool, ...] = ()

    @property
    def place_option(self) -> int | None:
        """Index of the option "a span of the message"; None if the field doesn't have this option."""
        return int(self.optional) if self.longest else None

    @property
    def negated_option(self) -> int | None:
        """Index of the option "a number with the other sign"; None if the field doesn't have this option."""
        return int(self.optional) + 1 if self.longest and self.negated else None

    @property
    def first_value(self) -> int:
        """Index of the option for the first of ``values``."""
        return int(self.optional) + bool(self.longest) * (1 + self.negated)

    @property
    def options(self) -> int:
        return self.first_value + len(self.values)


class LearnedSection(Section):
    """The task that a head or adapter was trained for, and its calibration.

    ``instruction`` is the instruction in an adapter's training prompts; ``fields`` says how a head extracts
    the fields of ``output_schema``.
    """

    task: str
    kind: Literal["classify", "extract"]
    labels: tuple[str, ...] = ()
    output_schema: dict[str, Any] | None = None
    fields: tuple[LearnedField, ...] = ()
    instruction: str | None = None
    verbatim: bool = False
    rows: int = Field(description="labelled rows it learned from")
    calibration: Calibration | None = None
    reference: DriftReference | None = None

    def fault(self, *, has_head: bool) -> str | None:
        """What is inconsistent in this section; None if valid."""
        if self.kind == "extract":
            return self._fields_fault(has_head)
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            return "learned.labels: two or more are needed, each once"
        if self.reference is not None and len(self.reference.labels) != len(self.labels):
            return "learned.reference: it needs a share for each label"
        calibration = self.calibration
        if calibration is not None:
            if {len(calibration.scale), len(calibration.bias)} != {len(self.labels)}:
                return "learned.calibration: it needs a scale and a bias for each label"
            if calibration.fault:
                return f"learned.calibration: {calibration.fault}"
        return None

    def _fields_fault(self, has_head: bool) -> str | None:
        if self.output_schema is None:
            return "learned.output_schema: missing, and it was trained to extract"
        if self.labels:
            return "learned.labels: fields have none"
        if not has_head:
            # A decoder's output has no confidence to calibrate or monitor.
            extra = [name for name in ("fields", "calibration", "reference") if getattr(self, name)]
            return f"learned.{extra[0]}: an adapter writes its fields" if extra else None
        names, properties = [field.name for field in self.fields], self.output_schema.get("properties")
        if not isinstance(properties, dict) or set(names) != set(properties) or len(set(names)) != len(names):
            return "learned.fields: each property of the schema is needed, once"
        if any(not field.options for field in self.fields):
            return "learned.fields: each needs an option"
        if self.calibration is not None and (self.calibration.scale or self.calibration.bias):
            return "learned.calibration: fields have no scale and no bias"
        if self.calibration is not None and self.calibration.fault:
            return f"learned.calibration: {self.calibration.fault}"
        if self.reference is not None and self.reference.labels:
            return "learned.reference: fields have no labels"
        return None
