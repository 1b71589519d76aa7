"""Zero-shot models of a bundle: loads the layers after the encoder, and tries them once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeslm.bundle.manifest import Bundle
from edgeslm.bundle.zero_shot import MOST_TOKENS, Gliclass, Gliner, Nli
from edgeslm.engine.worker.entailment import NliModel, nli_shapes
from edgeslm.engine.worker.gliclass import GliclassModel, gliclass_shapes
from edgeslm.engine.worker.gliner import GlinerModel, gliner_shapes
from edgeslm.engine.worker.layers import check_arrays, read_arrays
from edgeslm.engine.worker.zero_shot_model import Forward, TokenEncoder, ZeroShotModel, quietly
from edgeslm.errors import BundleError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_zero_shot(bundle: Bundle, tokenizer: Tokenizer, forward: Forward) -> ZeroShotModel | None:
    """The bundle's zero-shot model; None if it has none.

    :raises BundleError: its layers are damaged, or a first run of the model fails.
    """
    section, encoder_section = bundle.manifest.zero_shot, bundle.manifest.encoder
    if section is None or encoder_section is None:
        return None
    file = bundle.path / section.weights
    arrays, dimension = read_arrays(file), encoder_section.dimension
    length = min(bundle.manifest.context_length, MOST_TOKENS)
    encoder = TokenEncoder.of(bundle.path.name, tokenizer, forward, length)
    if not isinstance(section, Nli):
        known = tokenizer.get_added_tokens_decoder()
        for id in (section.label_token, section.text_token):
            if id not in known or not known[id].special:  # a text could contain it
                raise BundleError(f"{bundle.path}: the token {id} isn't a special token of its tokenizer")
    model: ZeroShotModel
    if isinstance(section, Gliclass):
        check_arrays(file, arrays, gliclass_shapes(section, arrays, dimension))
        model = GliclassModel(section, encoder, arrays)
    elif isinstance(section, Gliner):
        check_arrays(file, arrays, gliner_shapes(section, arrays, dimension))
        model = GlinerModel(section, encoder, arrays)
    else:
        if max(section.entailment, section.contradiction or 0) >= section.classes:
            fault = f"entailment and contradiction must be below {section.classes}"
            raise BundleError(f"{bundle.path}: zero_shot: {fault}")
        if section.entailment == section.contradiction:
            raise BundleError(f"{bundle.path}: zero_shot: entailment and contradiction are the same")
        check_arrays(file, arrays, nli_shapes(section, arrays, dimension))
        model = NliModel(section, encoder_section.pooling, encoder, arrays)
    try:
        with quietly():
            model.probe()
    except Exception as error:  # onnxruntime raises a class of its own for each status code
        raise BundleError(f"{bundle.path}: it fails on a first text: {error}") from None
    return model
